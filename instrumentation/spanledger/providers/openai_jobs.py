"""Reads OpenAI's asynchronous jobs: background responses, runs, agents' turns, videos, evals, fine-tuning, batches.

Their state is asked for any number of times, by any process; each counts once, by its own id and the time of
its creation (`Response.record`, `.created`), at the first answer that says finished.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from spanledger.providers import Response, compact_usage
from spanledger.providers.openai_media import video_seconds
from spanledger.providers.openai_usage import read_usage
from spanledger.providers.unread import unread_names
from spanledger.runtime.untrusted_json import Json, count, flag, get_path, items, label, mapping
from spanledger.semconv.dialects import known_names
from spanledger.semconv.usage import Usage

TERMINAL_STATUSES: Final = frozenset(
    {"completed", "incomplete", "failed", "cancelled", "canceled", "expired", "succeeded"}
)
ACCOUNTING_FIELDS: Final = (
    "id",
    "object",
    "model",
    "status",
    "usage",
    "created_at",
    "seconds",
    "size",
    "trained_tokens",
)
GRADED: Final = "model_grader_token_usage_per_model"
"""Of a grader's run (openai 3.57 `types/fine_tuning/alpha/grader_run_response.py`)."""
TURN: Final = "agent.session.turn."
EMPTY_RESPONSE: Final = Response()

Reader = Callable[[Json], Response]


def fold(body: Json, event: Json) -> Json:
    """Events of runs ({"event": "thread.run.completed", "data": {...}}), turns, images and transcripts."""
    kind = event.get("event")
    if isinstance(kind, str) and kind.startswith("thread.run."):
        _update_run(body, mapping(event, "data"))
        return body
    kind = event.get("type")
    if isinstance(kind, str) and kind.startswith(TURN):
        turns = cast("list[Json]", body.setdefault("turns", []))
        turns.append(
            {**_accounting_fields(mapping(event, "turn") or event), "turn": get_path(event, "turn_id"), "type": kind}
        )
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


def _accounting_fields(fields: Json) -> Json:
    return {key: fields[key] for key in ACCOUNTING_FIELDS if fields.get(key) is not None}


def _update_run(body: Json, fields: Json) -> None:
    if fields.get("object") in (None, "thread.run"):
        body.update(_accounting_fields(fields))


def read_poll(body: Json, read: Reader) -> Response:
    """Read a polled object; it has no usage until it is finished. `read` reads a response."""
    if "turns" in body or GRADED in body:
        turns = [_turn_response(cast("Json", turn)) for turn in items(body, "turns")]
        graders = [_grader_response(model, used) for model, used in mapping(body, GRADED).items()]
        return Response(extras=(*turns, *graders))
    kind = label(body, "object")
    if kind == "batch":  # its lines are billed, in the file of its results
        files = (label(body, name) for name in ("output_file_id", "error_file_id"))
        return Response(
            pending_job_id=label(body, "id"),
            created=count(body, "created_at"),
            result_names=tuple(name for name in files if name),
        )
    if label(body, "status") not in TERMINAL_STATUSES:
        return Response(pending_job_id=label(body, "id"))
    if kind == "response":
        # Any other response was billed when it was made; asking for it again costs nothing.
        return _with_job_id(body, read(body)) if flag(body, "background") is True else EMPTY_RESPONSE
    if kind == "video":
        return _video_response(body)
    if kind == "fine_tuning.job":
        trained = count(body, "trained_tokens")
        usage = Usage(training_tokens=trained) if trained else None
        return _with_job_id(body, Response(label(body, "id"), label(body, "model"), (), usage))
    if kind == "eval.run":
        return Response(extras=tuple(_eval_response(body, per_model) for per_model in items(body, "per_model_usage")))
    usage_fields = mapping(body, "usage")
    return _with_job_id(
        body,
        Response(
            label(body, "id"),
            label(body, "model"),
            (),
            read_usage(usage_fields, {}),
            raw_usage=compact_usage(usage_fields),
            unread=_unread(usage_fields),
        ),
    )


def _unread(usage_fields: Json) -> str | None:
    return unread_names(usage_fields, EVERYTHING_READ)


EVERYTHING_READ: Final = known_names("openai") | {"invocation_count"}


def _with_job_id(body: Json, response: Response) -> Response:
    created = count(body, "created_at")
    return response._replace(job_id=label(body, "id"), created=created)


def _video_response(body: Json) -> Response:
    if label(body, "status") != "completed":
        return Response(cancelled_job_id=label(body, "id"))
    seconds = video_seconds(body)
    usage = Usage(video_output_ms=round(seconds * 1000)) if seconds is not None else None
    response = Response(label(body, "id"), label(body, "model"), (), usage, size=label(body, "size"))
    return _with_job_id(body, response)


def _eval_response(run: Json, per_model: object) -> Response:
    """What an eval run used of one model: totals that include its cached tokens."""
    usage_fields = mapping(per_model)
    usage = read_usage(usage_fields, {})
    model = label(usage_fields, "model_name")
    name = f"{label(run, 'id')}:{model}"
    return Response(
        name,
        model,
        (),
        usage,
        raw_usage=compact_usage(usage_fields),
        job_id=name,
        created=count(run, "created_at"),
        begun_job_id=label(run, "id"),
        unread=_unread(usage_fields),
    )


def _grader_response(model: str, usage: object) -> Response:
    usage_fields = mapping(usage)
    return Response(
        None,
        label(model),
        (),
        read_usage(usage_fields, {}),
        raw_usage=compact_usage(usage_fields),
        unread=_unread(usage_fields),
    )


def _turn_response(turn: Json) -> Response:
    name = label(turn, "id") or label(turn, "turn")
    usage_fields = mapping(turn, "usage")
    return Response(
        name,
        label(turn, "model"),
        (),
        read_usage(usage_fields, {}),
        raw_usage=compact_usage(usage_fields),
        job_id=name,
        unread=_unread(usage_fields),
    )


def read_line(body: Json, read: Reader) -> Response:
    """One line of a batch's output file: an answer of its own, at the batch's price."""
    answer = mapping(body, "response", "body")
    if not answer or "custom_id" not in body:
        return EMPTY_RESPONSE
    response = read(answer)
    created = count(answer, "created") or count(answer, "created_at")
    operation = "embeddings" if label(answer, "object") == "list" else None
    return response._replace(batch=True, job_id=label(body, "id"), created=created, complete=True, operation=operation)
