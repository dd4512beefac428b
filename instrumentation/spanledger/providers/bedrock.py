"""Amazon Bedrock's wire format: Converse, and InvokeModel with the bodies of the model's vendor.

Converse counts additively: `inputTokens` leaves cache reads and writes out
(https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html). InvokeModel states tokens in the
vendor's body, in `amazon-bedrock-invocationMetrics` at the end of a stream, or in the answer's headers.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote

from spanledger.providers import UNKNOWN_OPERATION, Request, Response, anthropic, compact_usage, prompt_hash, texts
from spanledger.providers.unread import unread_names
from spanledger.runtime.untrusted_json import Json, count, get_path, items, label, mapping, number, parse_json
from spanledger.semconv import usage as usages
from spanledger.semconv.usage import Usage

NAME: Final = "aws.bedrock"

MODEL_PATH: Final = re.compile(
    r"/model/(?P<model>[^/]+)/(?P<verb>converse|invoke)(?P<stream>-stream|-with-response-stream)?$"
)
UNBILLED_PATH: Final = re.compile(r"/count-tokens$|/async-invoke|/guardrail/")
METRICS: Final = "amazon-bedrock-invocationMetrics"
HEADERS: Final = {
    "x-amzn-bedrock-input-token-count": "inputTokenCount",
    "x-amzn-bedrock-output-token-count": "outputTokenCount",
    "x-amzn-bedrock-cache-read-input-token-count": "cacheReadInputTokenCount",
    "x-amzn-bedrock-cache-write-input-token-count": "cacheWriteInputTokenCount",
}
"""Headers of an answer -> the metric of the same meaning."""
KNOWN: Final = frozenset({
    "inputTokens", "outputTokens", "totalTokens", "cacheReadInputTokens", "cacheWriteInputTokens", "cacheReadInputTokenCount",
    "cacheWriteInputTokenCount", "inputTokenCount", "outputTokenCount", "invocationLatency", "firstByteLatency", "cacheDetails.inputTokens",
})  # fmt: skip
"""Numbers of Converse's usage that are read."""
VENDOR_COUNTS: Final = (
    ("inputTextTokenCount", "outputTextTokenCount"),
    ("prompt_token_count", "generation_token_count"),
)
"""(input, output) in the bodies of Titan and Llama."""


def request(method: str, path: str, body: object) -> Request | None:
    endpoint = path.partition("?")[0]
    if method.upper() != "POST" or UNBILLED_PATH.search(endpoint):
        return None
    fields = mapping(body)
    match = MODEL_PATH.search(endpoint)
    if match is None:
        return Request(UNKNOWN_OPERATION)
    model = unquote(match["model"])
    settings = mapping(fields, "inferenceConfig") or fields
    return Request(
        "embeddings" if "embed" in model else "chat",
        label(model),
        match["stream"] is not None,
        count(settings, "maxTokens") or count(settings, "max_tokens"),
        number(settings, "temperature"),
        label(fields, "serviceTier", "type"),
        prompt_hash(texts(fields.get("system"))),
    )


def fold(body: Json, event: Json) -> Json:
    """Fold an event of a stream: {"metadata": {...}}, as its frame names it, or {"chunk": {"bytes": ...}}."""
    body["streamed"] = True
    chunk = _chunk(event)
    if chunk is not None:
        part = mapping(parse_json(chunk))
        if METRICS in part:
            body["metrics"] = part[METRICS]
            body["finished"] = True
        if "type" in part:
            return anthropic.fold(body, part)
        event = part
    usage_fields = mapping(event, "metadata", "usage")
    if usage_fields:
        body["usage"] = usage_fields
        body["finished"] = True
    reason = label(event, "messageStop", "stopReason")
    if reason:
        body["stopReason"] = reason
    return body


def _chunk(event: Json) -> bytes | None:
    """The bytes of InvokeModel's event, JSON in the vendor's format."""
    encoded = get_path(event, "chunk", "bytes")
    try:
        return base64.b64decode(encoded) if isinstance(encoded, str) else None
    except (binascii.Error, ValueError):
        return None


def response(body: Json, request: Request | None = None, provider: str = "") -> Response:  # noqa: ARG001 - one dialect
    usage_fields = mapping(body, "usage")
    reason = label(body, "stopReason")
    complete = body.get("streamed") is not True or body.get("finished") is True
    if "input_tokens" in usage_fields:
        return anthropic.response(body)
    metrics = mapping(body, "metrics") or mapping(body, METRICS) or mapping(body, "headers")
    usage = _usage(usage_fields, "") or _usage(metrics, "Count") or _vendor_usage(body)
    return Response(
        label(body, "id"),
        None,
        (reason,) if reason else (),
        usage,
        label(body, "serviceTier", "type"),
        raw_usage=compact_usage(usage_fields or metrics),
        complete=complete,
        operation=request.operation if request else None,
        unread=unread_names(usage_fields or metrics, KNOWN),
    )


def _usage(fields: Json, suffix: str) -> Usage | None:
    """Tokens in the names of Converse ("inputTokens") or of the metrics ("inputTokenCount")."""
    names = ("inputTokenCount", "outputTokenCount") if suffix else ("inputTokens", "outputTokens")
    plain, output = (count(fields, name) for name in names)
    if plain is None and output is None:
        return None
    read = count(fields, "cacheReadInputTokenCount") or count(fields, "cacheReadInputTokens") or 0
    written = count(fields, "cacheWriteInputTokenCount") or count(fields, "cacheWriteInputTokens") or 0
    long = sum(
        count(part, "inputTokens") or 0 for part in items(fields, "cacheDetails")[:16] if label(part, "ttl") == "1h"
    )
    return usages.from_totals(
        (plain or 0) + read + written,
        output or 0,
        cache_read=read,
        cache_write=written,
        cache_write_1h=min(long, written),
        reported_total=count(fields, "totalTokens"),
    )


def _vendor_usage(body: Json) -> Usage | None:
    for into, out in VENDOR_COUNTS:
        tokens = count(body, into)
        if tokens is not None:
            results = sum(count(part, "tokenCount") or 0 for part in items(body, "results")[:64])
            return usages.from_totals(tokens, count(body, out) or results)
    return None
