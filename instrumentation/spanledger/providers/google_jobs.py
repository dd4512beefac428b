"""Reads Google's interactions and asynchronous jobs: videos, batches, tuning jobs.

Interactions count like generateContent under other names (google-genai 3.6 `_gaos/types/interactions/usage.py`):
input = total_input + total_tool_use, output = total_output + total_thought. Each hop of an automatic
continuation is an HTTP answer, and a row, of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from spanledger.providers import Request, Response, compact_usage
from spanledger.providers.unread import unread_names
from spanledger.runtime.untrusted_json import Json, count, get_path, items, label, mapping, unix_seconds
from spanledger.semconv import usage as usages
from spanledger.semconv.evidence import FEE_UNKNOWN, MODALITY_UNKNOWN
from spanledger.semconv.usage import Usage

MODALITIES: Final = {1: "TEXT", 2: "IMAGE", 3: "VIDEO", 4: "AUDIO", 5: "DOCUMENT"}
"""The enum's numbers, as proto-JSON transports write them."""
GROUNDING: Final = {"google_search": "web_searches", "google_maps": "maps_queries"}
KNOWN: Final = frozenset({
    "total_input_tokens", "total_output_tokens", "input_tokens", "output_tokens", "total_thought_tokens", "total_tool_use_tokens",
    "total_cached_tokens", "cached_tokens", "total_tokens", "initial_input_tokens", "input_tokens_by_modality.tokens",
    "cached_tokens_by_modality.tokens", "output_tokens_by_modality.tokens", "tool_use_tokens_by_modality.tokens", "grounding_tool_count.count",
})  # fmt: skip
"""Numbers of an interaction's usage that are read, or are parts of others."""
PENDING: Final = frozenset({"in_progress", "queued", "requires_action"})

Reader = Callable[[Json], Response]


def fold(body: Json, event: Json) -> Json:
    """Events of an interaction: the last one that carries the interaction's usage counts."""
    body["streamed"] = True
    interaction_fields = mapping(event, "interaction")
    for key in ("id", "model", "agent", "status", "usage", "created"):
        if interaction_fields.get(key) is not None:
            body[key] = interaction_fields[key]
    if event.get("event_type") == "interaction.completed":
        body["finished"] = True
    return body


def interaction(body: Json) -> Response:
    """An interaction, a decision or a voice: an object with an id, a model and `usage`."""
    usage_fields = mapping(body, "usage")
    status = label(body, "status")
    usage, model = _usage(usage_fields), label(body, "model")
    usage, doubts = as_images(usage, model, is_stated=bool(items(usage_fields, "output_tokens_by_modality")))
    used = (label(item, "type") for item in items(usage_fields, "grounding_tool_count")[:16] if count(item, "count"))
    if any(tool not in GROUNDING for tool in used):
        doubts = (*doubts, FEE_UNKNOWN)
    return Response(
        label(body, "id"),
        model,
        (status,) if status else (),
        usage,
        label(usage_fields, "service_tier") or label(body, "service_tier"),
        raw_usage=compact_usage(usage_fields),
        complete=body.get("streamed") is not True or body.get("finished") is True,
        unread=unread_names(usage_fields, KNOWN),
        doubts=doubts,
    )


def as_images(usage: Usage | None, model: str | None, *, is_stated: bool) -> tuple[Usage | None, tuple[str, ...]]:
    """The output of an image model that does not say what it is: images, as text would be ten times cheaper; and the doubt."""
    if usage is None or is_stated or model is None or "-image" not in model:
        return usage, ()
    made = usage.output - usage.reasoning
    return usage._replace(output=usage.reasoning, output_image=made), (MODALITY_UNKNOWN,) if made else ()


def _usage(usage_fields: Json) -> Usage | None:
    into, out = count(usage_fields, "total_input_tokens"), count(usage_fields, "total_output_tokens")
    if into is None and out is None:
        into, out = count(usage_fields, "input_tokens"), count(usage_fields, "output_tokens")
        if into is None and out is None:
            return None
    thoughts = count(usage_fields, "total_thought_tokens") or 0
    tool_use = count(usage_fields, "total_tool_use_tokens") or 0
    input_modalities, cached = (
        modalities(usage_fields, "input_tokens_by_modality"),
        modalities(usage_fields, "cached_tokens_by_modality"),
    )
    output_modalities = modalities(usage_fields, "output_tokens_by_modality")
    grounding = {
        meter: count(item, "count") or 0
        for item in items(usage_fields, "grounding_tool_count")[:16]
        if (meter := GROUNDING.get(label(item, "type") or ""))
    }
    return usages.from_totals(
        (into or 0) + tool_use,
        (out or 0) + thoughts,
        cache_read=count(usage_fields, "total_cached_tokens") or count(usage_fields, "cached_tokens") or 0,
        reasoning=thoughts,
        input_audio=max(0, input_modalities.get("AUDIO", 0) - cached.get("AUDIO", 0)),
        input_image=max(0, input_modalities.get("IMAGE", 0) - cached.get("IMAGE", 0)),
        input_video=max(0, input_modalities.get("VIDEO", 0) - cached.get("VIDEO", 0)),
        cache_read_audio=cached.get("AUDIO", 0),
        cache_read_image=cached.get("IMAGE", 0),
        cache_read_video=cached.get("VIDEO", 0),
        output_audio=output_modalities.get("AUDIO", 0),
        output_image=output_modalities.get("IMAGE", 0),
        output_video=output_modalities.get("VIDEO", 0),
        reported_total=count(usage_fields, "total_tokens"),
        **grounding,
    )


def modalities(usage_fields: Json, name: str) -> dict[str, int]:
    """Tokens by modality: [{"modality": "AUDIO", "tokenCount": 5}], or {"modality": "audio", "tokens": 5}."""
    totals: dict[str, int] = {}
    for item in items(usage_fields, name)[:32]:
        modality = get_path(item, "modality")
        if type(modality) is int:
            modality = MODALITIES.get(modality)
        if isinstance(modality, str):
            tokens = count(item, "tokenCount") or count(item, "tokens") or 0
            totals[modality.upper()] = totals.get(modality.upper(), 0) + tokens
    return totals


def read_poll(body: Json, read: Reader) -> Response:
    """An operation, a batch, a tuning job or an interaction in the background; `read` reads an answer."""
    name = label(body, "name") or label(body, "id")
    if "usage" in body:
        response = interaction(body)
        pending = label(body, "status") in PENDING or response.id is None
        return (
            Response(pending_job_id=name)
            if pending
            else response._replace(job_id=response.id, created=unix_seconds(body, "created"))
        )
    answers = _inlined_answers(body)
    files = _result_files(body)
    if files:
        created = unix_seconds(body, "metadata", "createTime") or unix_seconds(body, "createTime")
        return Response(pending_job_id=name, created=created, result_names=files)
    if answers:
        created = unix_seconds(body, "metadata", "createTime") or unix_seconds(body, "createTime")
        batch = (
            read(mapping(answer, "response"))._replace(
                batch=True, job_id=f"{name}:{index}", created=created, begun_job_id=name
            )
            for index, answer in enumerate(answers)
        )
        return Response(extras=tuple(batch))
    trained = _trained_tokens(body)
    if trained:
        created = unix_seconds(body, "createTime")
        model = label(body, "baseModel")
        return Response(name, model, (), Usage(training_tokens=trained), job_id=name, created=created)
    if body.get("done") is not True:
        return Response(pending_job_id=name)
    samples = len(items(body, "response", "generateVideoResponse", "generatedSamples")) or len(
        items(body, "response", "videos")
    )
    return Response(name, job_id=name, quantity=samples) if samples else Response(cancelled_job_id=name)


RESULTS: Final = (("response",), ("dest",), ("output",), ("metadata", "output"))
"""Where a batch says what became of it, by API and release."""


def _result_files(body: Json) -> tuple[str, ...]:
    names = (label(body, *path, field) for path in RESULTS for field in ("responsesFile", "fileName"))
    return tuple(dict.fromkeys(name for name in names if name))


def _inlined_answers(body: Json) -> list[object]:
    for path in RESULTS:
        container = get_path(body, *path, "inlinedResponses")
        answers = (
            cast("list[object]", container) if isinstance(container, list) else items(container, "inlinedResponses")
        )
        if answers:
            return answers
    return []


def _trained_tokens(body: Json) -> int | None:
    stats = mapping(body, "tuningDataStats")
    for kind in ("supervisedTuningDataStats", "preferenceOptimizationDataStats", "distillationDataStats"):
        tokens = count(stats, kind, "totalBillableTokenCount")
        if tokens is None and label(stats, kind, "totalBillableTokenCount"):
            text = label(stats, kind, "totalBillableTokenCount") or ""  # an int64 is a string in proto-JSON
            tokens = int(text) if text.isdecimal() else None
        if tokens:
            return tokens
    return None


def read_line(body: Json, request: Request, read: Reader) -> Response:
    """One line of a batch's result file: {"key": ..., "response": {...}}."""
    answer = mapping(body, "response")
    if "usageMetadata" not in answer:
        return Response()
    return read(answer)._replace(batch=True, job_id=f"{request.parent_id}:{label(body, 'key')}")
