"""Cohere's own wire format, v1 and v2: what is billed stands in `billed_units` (https://docs.cohere.com/reference/chat)."""

from __future__ import annotations

import re
from typing import Final

from spanledger.providers import UNKNOWN_OPERATION, Request, Response, compact_usage
from spanledger.providers.unread import unread_names
from spanledger.runtime.untrusted_json import Json, count, flag, label, mapping, number
from spanledger.semconv import usage as usages
from spanledger.semconv.evidence import FEE_UNKNOWN
from spanledger.semconv.usage import Usage

NAME: Final = "cohere"

OPERATIONS: Final = {
    "chat": "chat",
    "generate": "text_completion",
    "summarize": "text_completion",
    "embed": "embeddings",
    "rerank": "rerank",
    "classify": "classification",
}
UNBILLED: Final = frozenset(
    {"tokenize", "detokenize", "check-api-key", "datasets", "connectors", "embed-jobs", "models"}
)
KNOWN: Final = frozenset({"input_tokens", "output_tokens", "search_units", "classifications", "image_tokens"})
"""Of the billed units, those that are read."""
PATH: Final = re.compile(r"/v[12]/([\w-]+)")


def request(method: str, path: str, body: object) -> Request | None:
    match = PATH.search(path)
    name = match[1] if match else ""
    if method.upper() != "POST" or name in UNBILLED:
        return None
    fields = mapping(body)
    return Request(
        OPERATIONS.get(name, UNKNOWN_OPERATION),
        label(fields, "model"),
        flag(fields, "stream") or False,
        count(fields, "max_tokens"),
        number(fields, "temperature"),
    )


def fold(body: Json, event: Json) -> Json:
    """Events of v2 ({"type": "message-end", "delta": {...}}) and v1 ({"event_type": "stream-end", "response": {...}})."""
    body["streamed"] = True
    kind = event.get("type") or event.get("event_type")
    if kind == "message-start":
        body["id"] = event.get("id")
    elif kind == "message-end":
        body.update({key: value for key, value in mapping(event, "delta").items() if key in ("usage", "finish_reason")})
        body["finished"] = True
    elif kind == "stream-end":
        answer = mapping(event, "response")
        body.update({"id": answer.get("generation_id"), "meta": answer.get("meta"), "finished": True})
        body["finish_reason"] = event.get("finish_reason")
    return body


def response(body: Json, request: Request | None = None, provider: str = "") -> Response:  # noqa: ARG001 - the protocol's
    stated = mapping(body, "usage") or mapping(body, "meta")
    reason = label(body, "finish_reason")
    usage = _usage(stated)
    return Response(
        label(body, "id") or label(body, "generation_id"),
        None,
        (reason,) if reason else (),
        usage,
        raw_usage=compact_usage({key: value for key, value in stated.items() if key != "api_version"}),
        complete=body.get("streamed") is not True or body.get("finished") is True,
        unread=unread_names(mapping(stated, "billed_units"), KNOWN),
        doubts=(FEE_UNKNOWN,) if usage is not None and usage.total and usage.queries else (),
    )


def _usage(stated: Json) -> Usage | None:
    billed = mapping(stated, "billed_units")
    into, out = count(billed, "input_tokens"), count(billed, "output_tokens")
    queries = (count(billed, "search_units") or 0) + (count(billed, "classifications") or 0)
    if into is None and out is None:
        return Usage(queries=queries) if queries else None
    images = count(billed, "image_tokens") or 0  # of embeddings: beside the texts' tokens
    return usages.from_totals((into or 0) + images, out or 0, input_image=images)._replace(queries=queries)
