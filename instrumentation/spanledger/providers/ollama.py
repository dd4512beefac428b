"""Ollama's own wire format (https://github.com/ollama/ollama/blob/main/docs/api.md): the last line of an answer counts."""

from __future__ import annotations

import re
from typing import Final

from spanledger.providers import Request, Response, compact_usage
from spanledger.runtime.untrusted_json import Json, count, flag, label, mapping, number
from spanledger.semconv import usage as usages

NAME: Final = "ollama"

OPERATIONS: Final = {"chat": "chat", "generate": "text_completion", "embed": "embeddings", "embeddings": "embeddings"}
PATH: Final = re.compile(r"/api/(\w+)$")
COUNTS: Final = ("prompt_eval_count", "eval_count")


def request(method: str, path: str, body: object) -> Request | None:
    match = PATH.search(path.partition("?")[0])
    operation = OPERATIONS.get(match[1]) if match else None
    if method.upper() != "POST" or operation is None:
        return None
    fields = mapping(body)
    options = mapping(fields, "options")
    streams = operation != "embeddings" and flag(fields, "stream") is not False
    return Request(
        operation, label(fields, "model"), streams, count(options, "num_predict"), number(options, "temperature")
    )


def fold(body: Json, event: Json) -> Json:
    body["streamed"] = True
    if event.get("done") is True:
        body.update({key: event[key] for key in ("model", "done_reason", *COUNTS) if key in event}, finished=True)
    return body


def response(body: Json, request: Request | None = None, provider: str = "") -> Response:  # noqa: ARG001 - the protocol's
    into, out = (count(body, name) for name in COUNTS)
    reason = label(body, "done_reason")
    return Response(
        None,
        label(body, "model"),
        (reason,) if reason else (),
        None if into is None and out is None else usages.from_totals(into or 0, out or 0),
        raw_usage=compact_usage({name: body[name] for name in COUNTS if name in body}),
        complete=body.get("streamed") is not True or body.get("finished") is True,
    )
