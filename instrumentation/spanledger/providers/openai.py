"""OpenAI's wire format (and that of the many servers that imitate it): chat, responses, completions, embeddings.

`openai_endpoints.py` says what a path means, `openai_usage.py` reads usage objects, `openai_media.py` images,
speech and transcription, `openai_jobs.py` what is asked about later (runs, videos, batches, background responses).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, cast

from spanledger.providers import (
    Request,
    Response,
    compact_usage,
    openai_jobs,
    openai_media,
    prompt_hash,
    several,
    texts,
)
from spanledger.providers.openai_endpoints import DECISION, endpoint
from spanledger.providers.openai_usage import read_usage
from spanledger.providers.unread import unread_names
from spanledger.runtime.untrusted_json import Json, count, flag, get_path, items, label, mapping, number
from spanledger.semconv.dialects import DIALECTS, known_names, stated_cost, unstated_fees, usage_of
from spanledger.semconv.evidence import CACHE_UNKNOWN, FEE_UNKNOWN, TOKENS_MISSING
from spanledger.semconv.usage import Usage

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
        reasoning_level=label(fields, "reasoning_effort") or label(fields, "reasoning", "effort"),
        choice_count=several(count(fields, "n")),
        previous_response_id=label(fields, "previous_response_id"),
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
    used = usage_of(event)
    if used:
        body["usage"] = used
        body["model"] = event.get("model") or body.get("model")
    if "service_tier" in event:
        body["service_tier"] = event["service_tier"]
    choices = event["choices"]
    if choices and isinstance(choices, list):
        choice = cast("list[object]", choices)[0]
        delta = get_path(choice, "delta")
        if isinstance(delta, dict) and delta.get("annotations"):  # pyright: ignore[reportUnknownMemberType]
            body["cited"] = True
        if isinstance(delta, dict) and delta.get("executed_tools"):  # pyright: ignore[reportUnknownMemberType]
            body["executed_tools"] = True
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
    extra = {
        "container_ids": list(_containers(answer)),
        "memory": _memory(answer),
        "made_images": _made_images(answer),
        "search_tool": _search_tool(answer),
    }
    return {**fields, "tool_counts": counted, "image_model": _image_model(answer), **extra}


def response(body: Json, request: Request | None = None, provider: str = "") -> Response:
    if request is not None:
        if request.is_json_lines:
            return openai_jobs.read_line(body, response)
        if request.is_poll:
            return openai_jobs.read_poll(body, response)
        if request.operation in openai_media.OPERATIONS:
            return openai_media.response(body, request, provider)
    usage_fields = usage_of(body)
    streamed = body.get("streamed") is True
    model = label(body, "model")
    tools: Json = cast("Json", body["tool_counts"]) if "tool_counts" in body else _tool_counts(body)
    if not tools and model is not None and SEARCH_MODEL.search(model):
        tools = {"web_searches": 1 if _has_citation(body) else 0}
    usage = read_usage(usage_fields, tools, provider, model or (request.model if request else None) or "")
    return Response(
        label(body, "id"),
        model,
        _finish_reasons(body),
        usage,
        "decisions" if request is not None and request.operation == DECISION else label(body, "service_tier"),
        None,
        None,
        stated_cost(usage_fields),
        compact_usage(usage_fields),
        not streamed or body.get("finished") is True or (usage is not None and "status" not in body),
        size=_memory(body),
        quality=_search_tool(body) if usage is not None and usage.web_searches else None,
        extras=_hosted_tools(body),
        unread=unread_names(usage_fields, known_names(provider)),
        doubts=_doubts(body, usage, model, provider),
        containers=_containers(body),
    )


def _hosted_tools(body: Json) -> tuple[Response, ...]:
    """Images that a hosted tool made: tokens of a model of its own, outside the response's usage
    (openai 3.57 `types/responses/response.py` ToolUsage). Where it does not state these, the images that it shows, by size
    and quality."""
    usage_fields = mapping(body, "tool_usage", "image_gen")
    usage = read_usage(usage_fields, {}, whole_output="output_image")
    name = label(body, "id")
    if usage is None or not usage.total:
        made = items(body, "made_images") if "made_images" in body else _made_images(body) if "output" in body else []
        model = label(body, "image_model") or (_image_model(body) if made else "")
        return tuple(
            Response(
                f"{name}#image_generation_{number}",
                model,
                (),
                Usage(images=1),
                operation="image_generation",
                size=label(image, "size"),
                quality=label(image, "quality"),
                doubts=(TOKENS_MISSING,),
            )
            for number, image in enumerate(made)
        )
    model = label(body, "image_model") or _image_model(body)
    return (
        Response(
            f"{name}#image_generation",
            model,
            (),
            usage,
            raw_usage=compact_usage(usage_fields),
            operation="image_generation",
            unread=unread_names(usage_fields, known_names("openai")),
        ),
    )


def _image_model(body: Json) -> str:
    models = (label(tool, "model") for tool in items(body, "tools") if get_path(tool, "type") == "image_generation")
    return next((model for model in models if model), IMAGE_TOOL)


IMAGE_TOOL: Final = "gpt-image-1"
"""The image tool's model where the request names none (openai 3.57 `types/responses/tool.py`)."""


SEARCH_MODEL: Final = re.compile(r"^(?:openai/)?gpt-[\w.-]+-search\b")
"""Chat models that search by themselves, and state no count of it."""


def _has_citation(body: Json) -> bool:
    return body.get("cited") is True or any(
        get_path(note, "type") == "url_citation"
        for choice in items(body, "choices")[:64]
        for note in items(choice, "message", "annotations")
    )


def _doubts(body: Json, usage: Usage | None, model: str | None, provider: str) -> tuple[str, ...]:
    """What the answer leaves open. A chat model that searches shows by its citations that it did; without one nobody knows."""
    if usage is None:
        return ()
    is_open = "choices" in body and model is not None and SEARCH_MODEL.search(model) and not usage.web_searches
    fields = usage_of(body)
    used_tools = body.get("executed_tools") is True or any(
        get_path(choice, "message", "executed_tools") for choice in items(body, "choices")[:64]
    )
    doubts = (FEE_UNKNOWN,) if is_open or used_tools or unstated_fees(fields) else ()
    dialect = DIALECTS.get(provider) if usage.cache_read else None
    return (*doubts, CACHE_UNKNOWN) if dialect is not None and dialect.has_cache_kinds else doubts


def _containers(body: Json) -> tuple[str, ...]:
    """Where code ran: containers of the code interpreter, and of the hosted shell."""
    if "container_ids" in body:
        return tuple(str(name) for name in items(body, "container_ids"))
    names = (
        label(item, "container_id")
        if get_path(item, "type") == "code_interpreter_call"
        else label(item, "environment", "container_id")
        if get_path(item, "type") == "shell_call"
        else None
        for item in items(body, "output")
    )
    return tuple(dict.fromkeys(name for name in names if name))


def _memory(body: Json) -> str | None:
    """The memory of the containers that it made, if it says so: it decides their price."""
    if "memory" in body:
        return label(body, "memory")
    limits = (
        label(tool, place, "memory_limit") for tool in items(body, "tools") for place in ("container", "environment")
    )
    return next((limit for limit in limits if limit), None)


def _search_tool(body: Json) -> str | None:
    """The type of the search tool that the answer repeats from its request: it decides the fee."""
    if "search_tool" in body:
        return label(body, "search_tool")
    kinds = (label(tool, "type") for tool in items(body, "tools"))
    return next((kind for kind in kinds if kind and kind.startswith("web_search")), None)


def _made_images(body: Json) -> list[Json]:
    """Size and quality of each image that the hosted tool has made."""
    made = [item for item in items(body, "output") if get_path(item, "type") == "image_generation_call"]
    return [
        {"size": label(item, "size"), "quality": label(item, "quality")}
        for item in made[:64]
        if get_path(item, "status") in ("completed", None)
    ]


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
    searches = count(body, "tool_usage", "web_search", "num_requests")
    return {
        "web_searches": sum(map(_is_search, output)) if searches is None else searches,
        "file_searches": kinds.count("file_search_call"),
        "code_sessions": len(_containers(body)),
    }


def _is_search(item: object) -> bool:
    """Whether a web search is billed: opening a page, looking in it, and a search that failed are not."""
    return (
        get_path(item, "type") == "web_search_call"
        and get_path(item, "action", "type") in ("search", None)
        and get_path(item, "status") != "failed"
    )
