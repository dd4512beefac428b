"""OpenAI's wire format (and that of the many servers that imitate it): chat, responses, embeddings.

Totals include everything: cached and cache-write tokens, audio and image are parts of the input,
reasoning is a part of the output (openai 3.57 `types/completion_usage.py`, `types/responses/response_usage.py`).
Dialects read as well: DeepSeek `prompt_cache_hit_tokens`, Mistral `num_cached_tokens`, Together
`cached_tokens`; xAI, and Gemini behind its OpenAI-compatible endpoint, leave reasoning outside of
`completion_tokens` but inside of `total_tokens`, so what a total has beyond its parts is reasoning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

from spanledger import usage as usages
from spanledger.providers import UNKNOWN, Request, Response, prompt_hash, raw, texts
from spanledger.reading import Json, at, count, counts, flag, items, label, mapping, number
from spanledger.usage import Usage

NAME: Final = "openai"

OPERATIONS: Final = {
    "/chat/completions": "chat",
    "/responses": "chat",
    "/responses/compact": "chat",
    "/completions": "text_completion",
    "/embeddings": "embeddings",
}
"""Path below the API's base -> `gen_ai.operation.name`."""

DIALECTS: Final = ("prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens")

TERMINAL: Final = {"response.completed", "response.incomplete", "response.failed"}


def request(method: str, path: str, body: object) -> Request | None:
    if method.upper() != "POST":
        return None
    found = mapping(body)
    operation = OPERATIONS.get(path) or OPERATIONS.get(_endpoint(path), UNKNOWN)
    return Request(
        operation,
        label(found, "model"),
        flag(found, "stream") or False,
        count(found, "max_completion_tokens") or count(found, "max_output_tokens") or count(found, "max_tokens"),
        number(found, "temperature"),
        label(found, "service_tier"),
        prompt_hash(_system_prompt(found)),
        flag(found, "stream_options", "include_usage"),
    )


def _endpoint(path: str) -> str:
    """`/v1/openai/deployments/x/chat/completions?api-version=1` -> `/chat/completions`."""
    path = path.partition("?")[0].rstrip("/")
    for known in OPERATIONS:
        if path.endswith(known) and not (known == "/completions" and path.endswith("/chat/completions")):
            return known
    return path


def _system_prompt(found: Json) -> Iterator[object]:
    yield from texts(found.get("instructions"))
    for message in items(found, "messages")[:4]:
        if at(message, "role") in ("system", "developer"):
            yield from texts(at(message, "content"))


def fold(body: Json, event: Json) -> Json:
    if "choices" in event:
        return _fold_chat(body, event)
    kind = event.get("type")
    if isinstance(kind, str) and kind.startswith("response."):
        # Only the first and the last event carry the response object; the deltas in between are content.
        answer = event.get("response")
        if isinstance(answer, dict):
            body.update(_accounted(cast("Json", answer)))
            body["streamed"] = True
            body["finished"] = kind in TERMINAL
        return body
    if isinstance(event.get("usage"), dict):
        body["usage"] = event["usage"]
    return body


def _fold_chat(body: Json, event: Json) -> Json:
    if "id" not in body:
        body["id"] = event.get("id")
        body["model"] = event.get("model")
        body["streamed"] = True
    if event.get("usage"):
        body["usage"] = event["usage"]
        body["model"] = event.get("model") or body["model"]
    if "service_tier" in event:
        body["service_tier"] = event["service_tier"]
    choices = event["choices"]
    if choices and isinstance(choices, list):
        choice = cast("list[object]", choices)[0]
        if len(cast("list[object]", choices)) == 1 and at(choice, "finish_reason") is None:
            return body
        reasons = cast("Json", body.setdefault("reasons", {}))
        for choice in cast("list[object]", choices)[:64]:
            reason = label(choice, "finish_reason")
            if reason:
                reasons[str(count(choice, "index") or 0)] = reason
                body["finished"] = True
    return body


def _accounted(answer: Json) -> Json:
    """The accounting fields of a response object: what a stream keeps of it."""
    kept = ("id", "model", "status", "usage", "service_tier", "tool_usage", "incomplete_details")
    found = {key: answer[key] for key in kept if answer.get(key) is not None}
    tools = _tool_counts(answer)
    return {**found, "tools": tools} if tools else found


def response(body: Json) -> Response:
    found = mapping(body, "usage")
    streamed = body.get("streamed") is True
    cost = number(found, "cost") if "cost" in found else None
    ticks = count(found, "cost_in_usd_ticks") if "cost_in_usd_ticks" in found else None  # xAI: 1e-10 USD
    usage = _usage(found, cast("Json", body.get("tools")) if "tools" in body else _tool_counts(body))
    return Response(
        label(body, "id"),
        label(body, "model"),
        _finish_reasons(body),
        usage,
        label(body, "service_tier"),
        None,
        None,
        f"{ticks}E-10" if ticks else repr(cost) if cost is not None and cost > 0 else None,
        raw(found),
        not streamed or body.get("finished") is True or (usage is not None and "status" not in body),
    )


def _finish_reasons(body: Json) -> tuple[str, ...]:
    reasons = mapping(body, "reasons")
    if reasons:
        return tuple(str(reasons[index]) for index in sorted(reasons))
    found = [label(choice, "finish_reason") for choice in items(body, "choices")[:64]]
    if not found:
        status = label(body, "status")
        found = [label(body, "incomplete_details", "reason") if status == "incomplete" else status]
    return tuple(reason for reason in found if reason)


def _tool_counts(body: Json) -> Json:
    """Billed tool calls of a response: its items, or the provider's own count where it gives one."""
    output = items(body, "output")
    if not output and "tool_usage" not in body:
        return {}
    kinds = [at(item, "type") for item in output]
    containers = {label(item, "container_id") for item in output if at(item, "type") == "code_interpreter_call"}
    searches = count(body, "tool_usage", "web_search", "num_requests")
    return {
        "web_searches": kinds.count("web_search_call") if searches is None else searches,
        "file_searches": kinds.count("file_search_call"),
        "code_sessions": len(containers),
    }


def _usage(found: Json, tools: Json) -> Usage | None:
    n = counts(found).get
    if "prompt_tokens" in found:
        prompt, completion, into, out = (
            n("prompt_tokens"),
            n("completion_tokens"),
            "prompt_tokens_details",
            "completion_tokens_details",
        )
    else:
        prompt, completion, into, out = (
            n("input_tokens"),
            n("output_tokens"),
            "input_tokens_details",
            "output_tokens_details",
        )
        if "input_token_details" in found:  # the realtime API's spelling
            into, out = "input_token_details", "output_token_details"
    if prompt is None and completion is None:
        return None
    prompt, completion = prompt or 0, completion or 0
    reasoning = n(f"{out}.reasoning_tokens", 0)
    total = n("total_tokens")
    beyond = (total or 0) - prompt - completion
    if beyond > 0:
        completion += beyond
        reasoning = max(reasoning, beyond)
    cached = n(f"{into}.cached_tokens")
    for dialect in DIALECTS:
        if cached is None:
            cached = n(dialect)
    writes = n(f"{into}.cache_write_tokens", 0)
    writes_12h = min(writes, n(f"{into}.cache_write_tokens_details.ttl_12h_tokens", 0)) if writes else 0
    cached_audio = n(f"{into}.cached_tokens_details.audio_tokens", 0)
    cached_image = n(f"{into}.cached_tokens_details.image_tokens", 0)
    return usages.from_totals(
        prompt,
        completion,
        cache_read=cached or 0,
        cache_write=writes - writes_12h,
        cache_write_12h=writes_12h,
        reasoning=reasoning,
        input_audio=max(0, n(f"{into}.audio_tokens", 0) - cached_audio),
        input_image=max(0, n(f"{into}.image_tokens", 0) - cached_image),
        cache_read_audio=cached_audio,
        cache_read_image=cached_image,
        output_audio=n(f"{out}.audio_tokens", 0),
        output_image=n(f"{out}.image_tokens", 0),
        web_searches=count(tools, "web_searches") or 0 if tools else 0,
        file_searches=count(tools, "file_searches") or 0 if tools else 0,
        code_sessions=count(tools, "code_sessions") or 0 if tools else 0,
        reported_total=total,
    )
