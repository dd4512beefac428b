"""What OpenAI bills after the request: background responses, runs, agents' turns, videos, evals, fine-tuning, batches.

Their state is asked for any number of times, by any process; each counts once, by its own id and the time of
its creation (`Response.record`, `.created`), at the first answer that says finished.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from spanledger.providers import Response, raw
from spanledger.providers.openai_media import video_seconds
from spanledger.providers.openai_usage import read_usage
from spanledger.runtime.untrusted_json import Json, at, count, flag, items, label, mapping
from spanledger.semconv.usage import Usage

DONE: Final = frozenset({"completed", "incomplete", "failed", "cancelled", "canceled", "expired", "succeeded"})
KEPT: Final = ("id", "object", "model", "status", "usage", "created_at", "seconds", "size", "trained_tokens")
TURN: Final = "agent.session.turn."
NOTHING: Final = Response()

Reader = Callable[[Json], Response]


def fold(body: Json, event: Json) -> Json:
    """Events of runs ({"event": "thread.run.completed", "data": {...}}), turns, images and transcripts."""
    kind = event.get("event")
    if isinstance(kind, str) and kind.startswith("thread.run."):
        _keep(body, mapping(event, "data"))
        return body
    kind = event.get("type")
    if isinstance(kind, str) and kind.startswith(TURN):
        turns = cast("list[Json]", body.setdefault("turns", []))
        turns.append({**_kept(mapping(event, "turn") or event), "turn": at(event, "turn_id"), "type": kind})
        return body
    if isinstance(event.get("usage"), dict):
        body["usage"] = event["usage"]
    if isinstance(kind, str):
        body["streamed"] = True
        if kind.endswith((".completed", ".done")):
            body["finished"] = True
            if kind.startswith("image"):
                body["images"] = (count(body, "images") or 0) + 1
                body.update({key: event[key] for key in ("size", "quality") if key in event})
    return body


def _kept(fields: Json) -> Json:
    return {key: fields[key] for key in KEPT if fields.get(key) is not None}


def _keep(body: Json, fields: Json) -> None:
    if fields.get("object") in (None, "thread.run"):
        body.update(_kept(fields))


def polled(body: Json, read: Reader) -> Response:
    """An object that was asked about; without usage while it is not finished. `read` reads a response."""
    if "turns" in body:
        return Response(extras=tuple(_turn(cast("Json", turn)) for turn in items(body, "turns")))
    kind = label(body, "object")
    if kind == "batch":
        return NOTHING  # its lines are billed, in the file of its results
    if label(body, "status") not in DONE:
        return Response(awaited=label(body, "id"))
    if kind == "response":
        # Any other response was billed when it was made; asking for it again costs nothing.
        return _record(body, read(body)) if flag(body, "background") is True else NOTHING
    if kind == "video":
        return _video(body)
    if kind == "fine_tuning.job":
        trained = count(body, "trained_tokens")
        usage = Usage(training_tokens=trained) if trained else None
        return _record(body, Response(label(body, "id"), label(body, "model"), (), usage))
    if kind == "eval.run":
        return Response(extras=tuple(_evaluated(body, per_model) for per_model in items(body, "per_model_usage")))
    usage_fields = mapping(body, "usage")
    return _record(
        body, Response(label(body, "id"), label(body, "model"), (), read_usage(usage_fields, {}), raw_usage=raw(usage_fields))
    )


def _record(body: Json, response: Response) -> Response:
    created = count(body, "created_at")
    return response._replace(record=label(body, "id"), created=created)


def _video(body: Json) -> Response:
    if label(body, "status") != "completed":
        return Response(void=label(body, "id"))
    seconds = video_seconds(body)
    usage = Usage(video_output_ms=round(seconds * 1000)) if seconds is not None else None
    response = Response(label(body, "id"), label(body, "model"), (), usage, size=label(body, "size"))
    return _record(body, response)


def _evaluated(run: Json, per_model: object) -> Response:
    """What an eval run used of one model: totals that include its cached tokens."""
    usage_fields = mapping(per_model)
    usage = read_usage(usage_fields, {})
    model = label(usage_fields, "model_name")
    name = f"{label(run, 'id')}:{model}"
    return Response(name, model, (), usage, raw_usage=raw(usage_fields), record=name, created=count(run, "created_at"))


def _turn(turn: Json) -> Response:
    name = label(turn, "id") or label(turn, "turn")
    usage_fields = mapping(turn, "usage")
    return Response(name, label(turn, "model"), (), read_usage(usage_fields, {}), raw_usage=raw(usage_fields), record=name)


def line(body: Json, read: Reader) -> Response:
    """One line of a batch's output file: an answer of its own, at the batch's price."""
    answer = mapping(body, "response", "body")
    if not answer or "custom_id" not in body:
        return NOTHING
    response = read(answer)
    created = count(answer, "created") or count(answer, "created_at")
    return response._replace(batch=True, record=label(body, "id"), created=created, complete=True)
