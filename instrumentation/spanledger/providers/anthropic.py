"""Anthropic's wire format: messages, streamed or not, in the API, on Bedrock and on Vertex.

Counts are additive: `input_tokens` leaves cache reads and writes out (anthropic 2.13 `types/message.py`);
`output_tokens` includes thinking. A stream states its input, tier and geography in `message_start`
only; `message_delta` overwrites the counts cumulatively. The tokens of a compaction iteration are not
in the top level (`types/beta/beta_usage.py`) and are added here; iterations of other models are not.
"""

from __future__ import annotations

from typing import Final, cast

from spanledger import usage as usages
from spanledger.providers import UNKNOWN, Request, Response, prompt_hash, raw, texts
from spanledger.reading import Json, at, count, flag, items, label, mapping, number
from spanledger.usage import Usage

NAME: Final = "anthropic"

KEPT: Final = ("id", "model", "stop_reason")


def request(method: str, path: str, body: object) -> Request | None:
    if method.upper() != "POST":
        return None
    found = mapping(body)
    endpoint = path.partition("?")[0].rstrip("/")
    operation = "chat" if endpoint.endswith("/messages") else UNKNOWN
    if endpoint.endswith("/complete"):
        operation = "text_completion"
    return Request(
        operation,
        label(found, "model"),
        flag(found, "stream") or False,
        count(found, "max_tokens") or count(found, "max_tokens_to_sample"),
        number(found, "temperature"),
        label(found, "service_tier"),
        prompt_hash(texts(found.get("system"))),
    )


def fold(body: Json, event: Json) -> Json:
    kind = event.get("type")
    if kind == "content_block_delta":
        return body
    if kind == "message_start":
        message = mapping(event, "message")
        body.update({key: message.get(key) for key in KEPT}, streamed=True)
        body["usage"] = dict(mapping(message, "usage"))
    elif kind == "message_delta":
        changed = {key: value for key, value in mapping(event, "usage").items() if value is not None}
        body["usage"] = {**mapping(body, "usage"), **changed}
        body["stop_reason"] = at(event, "delta", "stop_reason")
    elif kind == "message_stop":
        body["finished"] = True
    return body


def response(body: Json) -> Response:
    found = mapping(body, "usage")
    reason = label(body, "stop_reason")
    return Response(
        label(body, "id"),
        label(body, "model"),
        (reason,) if reason else (),
        _usage(found),
        label(found, "service_tier"),
        label(found, "inference_geo"),
        label(found, "speed"),
        None,
        raw(found),
        body.get("streamed") is not True or body.get("finished") is True,
    )


def _usage(found: Json) -> Usage | None:
    if count(found, "input_tokens") is None and count(found, "output_tokens") is None:
        return None
    parts = [found, *(i for i in items(found, "iterations") if at(i, "type") == "compaction")]
    plain, read, written, written_1h, output, thinking = map(sum, zip(*map(_counts, parts), strict=True))
    return usages.from_totals(
        plain + read + written,
        output,
        cache_read=read,
        cache_write=written - written_1h,
        cache_write_1h=written_1h,
        reasoning=thinking,
        web_searches=count(found, "server_tool_use", "web_search_requests") or 0,
    )


def _counts(part: object) -> tuple[int, int, int, int, int, int]:
    """Plain input, cache read, cache written (all), of which for an hour, output, of which thinking."""
    found = cast("Json", part)
    long = count(found, "cache_creation", "ephemeral_1h_input_tokens") or 0
    short = count(found, "cache_creation", "ephemeral_5m_input_tokens") or 0
    written = max(count(found, "cache_creation_input_tokens") or 0, long + short)
    return (
        count(found, "input_tokens") or 0,
        count(found, "cache_read_input_tokens") or 0,
        written,
        long,
        count(found, "output_tokens") or 0,
        count(found, "output_tokens_details", "thinking_tokens") or 0,
    )
