"""OpenAI's wire format (and that of the many servers that imitate it): chat, responses, completions, embeddings.

`openai_endpoints.py` says what a path means, `openai_usage.py` reads usage objects, `openai_media.py` images,
speech and transcription, `openai_jobs.py` what is asked about later (runs, videos, batches, background responses).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

from spanledger.providers import Request, Response, compact_usage, openai_jobs, openai_media, prompt_hash, texts
from spanledger.providers.openai_endpoints import DECISION, endpoint
from spanledger.providers.openai_usage import read_usage
from spanledger.runtime.untrusted_json import Json, count, flag, get_path, items, label, mapping, number

NAME: Final = "openai"

TERMINAL: Final = {"response.completed", "response.incomplete", "response.failed"}


def request(method: str, path: str, body: object) -> Request | None:
    fields = mapping(body)
    kind = endpoint(method.upper(), path)
    if kind is None:
        return None
    media = openai_media.media_request(kind.operation, fields)
    return Request(
        kind.operation,
        label(fields, "model"),
        flag(fields, "stream") or False,
        count(fields, "max_completion_tokens") or count(fields, "max_output_tokens") or count(fields, "max_tokens"),
        number(fields, "temperature"),
        label(fields, "service_tier"),
        prompt_hash(_system_prompt(fields)),
        flag(fields, "stream_options", "include_usage"),
        media.expected,
        media.size,
        media.quality,
        kind.is_poll or flag(fields, "background") is True,
        kind.is_json_lines,
        _file_id(path) if kind.is_json_lines else kind.parent_id,
        kind.starts_job or flag(fields, "background") is True,
        kind.batch,
    )


def _file_id(path: str) -> str | None:
    """Of `files/<id>/content`."""
    parts = path.partition("?")[0].rstrip("/").rsplit("/", 2)
    return label(parts[-2]) if len(parts) > 1 else None


def _system_prompt(fields: Json) -> Iterator[object]:
    yield from texts(fields.get("instructions"))
    for message in items(fields, "messages")[:4]:
        if get_path(message, "role") in ("system", "developer"):
            yield from texts(get_path(message, "content"))


def fold(body: Json, event: Json) -> Json:
    if "choices" in event:
        return _fold_chat(body, event)
    kind = event.get("type")
    if isinstance(kind, str) and kind.startswith("response."):
        # Only the first and the last event carry the response object; the deltas in between are content.
        answer = event.get("response")
        if isinstance(answer, dict):
            body.update(_accounting_fields(cast("Json", answer)))
            body["streamed"] = True
            body["finished"] = kind in TERMINAL
        return body
    return openai_jobs.fold(body, event)


def _fold_chat(body: Json, event: Json) -> Json:
    if not body.get("id"):  # Azure's first chunk, of the prompt's filters, has an empty one
        body["id"] = event.get("id")
        body["model"] = event.get("model") or body.get("model")
        body["streamed"] = True
    used = event.get("usage") or get_path(event, "x_groq", "usage")  # Groq's own place, beside the stream's
    if used:
        body["usage"] = used
        body["model"] = event.get("model") or body.get("model")
    if "service_tier" in event:
        body["service_tier"] = event["service_tier"]
    choices = event["choices"]
    if choices and isinstance(choices, list):
        choice = cast("list[object]", choices)[0]
        if len(cast("list[object]", choices)) == 1 and get_path(choice, "finish_reason") is None:
            return body
        reasons = cast("Json", body.setdefault("reasons", {}))
        for choice in cast("list[object]", choices)[:64]:
            reason = label(choice, "finish_reason")
            if reason:
                reasons[str(count(choice, "index") or 0)] = reason
                body["finished"] = True
    return body


def _accounting_fields(answer: Json) -> Json:
    """The accounting fields of a response object: what a stream keeps of it."""
    field_names = (
        "id", "object", "model", "status", "usage", "service_tier", "tool_usage", "incomplete_details",
        "background", "created_at",
    )  # fmt: skip
    fields = {key: answer[key] for key in field_names if answer.get(key) is not None}
    counted = _tool_counts(answer)
    if not counted:
        return fields
    return {**fields, "tool_counts": counted, "image_model": _image_model(answer)}


def response(body: Json, request: Request | None = None) -> Response:
    if request is not None:
        if request.is_json_lines:
            return openai_jobs.read_line(body, response)
        if request.is_poll:
            return openai_jobs.read_poll(body, response)
        if request.operation in openai_media.OPERATIONS:
            return openai_media.response(body, request)
    usage_fields = mapping(body, "usage")
    streamed = body.get("streamed") is True
    cost = number(usage_fields, "cost") if "cost" in usage_fields else None
    ticks = count(usage_fields, "cost_in_usd_ticks") if "cost_in_usd_ticks" in usage_fields else None  # xAI: 1e-10 USD
    usage = read_usage(usage_fields, cast("Json", body["tool_counts"]) if "tool_counts" in body else _tool_counts(body))
    return Response(
        label(body, "id"),
        label(body, "model"),
        _finish_reasons(body),
        usage,
        "decisions" if request is not None and request.operation == DECISION else label(body, "service_tier"),
        None,
        None,
        f"{ticks}E-10" if ticks else repr(cost) if cost is not None and cost > 0 else None,
        compact_usage(usage_fields),
        not streamed or body.get("finished") is True or (usage is not None and "status" not in body),
        extras=_hosted_tools(body) if "tool_usage" in body else (),
    )


def _hosted_tools(body: Json) -> tuple[Response, ...]:
    """Images that a hosted tool made: tokens of a model of its own, outside the response's usage
    (openai 3.57 `types/responses/response.py` ToolUsage)."""
    usage_fields = mapping(body, "tool_usage", "image_gen")
    usage = read_usage(usage_fields, {}, image_output=True)
    if usage is None or not usage.total:
        return ()
    model = label(body, "image_model") or _image_model(body)
    name = label(body, "id")
    return (
        Response(
            f"{name}#image_generation",
            model,
            (),
            usage,
            raw_usage=compact_usage(usage_fields),
            operation="image_generation",
        ),
    )


def _image_model(body: Json) -> str:
    models = (label(tool, "model") for tool in items(body, "tools") if get_path(tool, "type") == "image_generation")
    return next((model for model in models if model), IMAGE_TOOL)


IMAGE_TOOL: Final = "gpt-image-1"
"""The image tool's model where the request names none (openai 3.57 `types/responses/tool.py`)."""


def _finish_reasons(body: Json) -> tuple[str, ...]:
    reasons = mapping(body, "reasons")
    if reasons:
        return tuple(str(reasons[index]) for index in sorted(reasons))
    finish_reasons = [label(choice, "finish_reason") for choice in items(body, "choices")[:64]]
    if not finish_reasons:
        status = label(body, "status")
        finish_reasons = [label(body, "incomplete_details", "reason") if status == "incomplete" else status]
    return tuple(reason for reason in finish_reasons if reason)


def _tool_counts(body: Json) -> Json:
    """Billed tool calls of a response: its items, or the provider's own count where it gives one."""
    output = items(body, "output")
    if not output and "tool_usage" not in body:
        return {}
    kinds = [get_path(item, "type") for item in output]
    containers = {label(item, "container_id") for item in output if get_path(item, "type") == "code_interpreter_call"}
    searches = count(body, "tool_usage", "web_search", "num_requests")
    return {
        "web_searches": kinds.count("web_search_call") if searches is None else searches,
        "file_searches": kinds.count("file_search_call"),
        "code_sessions": len(containers),
    }
