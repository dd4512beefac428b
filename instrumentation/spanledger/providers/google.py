"""Google's wire format: generateContent and the embedding calls, of the Gemini API and of Vertex AI.

`promptTokenCount` includes cached content but neither tool-use prompts nor thoughts: the total is
prompt + tool-use prompt + candidates + thoughts (google-genai 3.6 `types.py`). Streams repeat running
totals in (nearly) every chunk: the last one wins, they are never summed.
"""

from __future__ import annotations

import re
from typing import Final, cast

from spanledger import usage as usages
from spanledger.providers import UNKNOWN, Request, Response, prompt_hash, raw, texts
from spanledger.reading import Json, at, count, items, label, mapping, number
from spanledger.usage import Usage

NAME: Final = "gcp.gemini"

OPERATIONS: Final = {
    "generateContent": "generate_content",
    "streamGenerateContent": "generate_content",
    "embedContent": "embeddings",
    "batchEmbedContents": "embeddings",
    "predict": UNKNOWN,
}
"""Verb of the path -> `gen_ai.operation.name`."""

MODEL: Final = re.compile(r"([^/:?]+):(\w+)(?:\?.*)?$")
MODALITIES: Final = {1: "TEXT", 2: "IMAGE", 3: "VIDEO", 4: "AUDIO", 5: "DOCUMENT"}
"""The enum's numbers, as proto-JSON transports write them."""
KEPT: Final = ("responseId", "modelVersion")


def request(method: str, path: str, body: object) -> Request | None:
    if method.upper() != "POST":
        return None
    found = mapping(body)
    match = MODEL.search(path)
    verb = match[2] if match else ""
    return Request(
        OPERATIONS.get(verb, UNKNOWN),
        label(match[1]) if match else label(found, "model"),
        verb == "streamGenerateContent",
        count(found, "generationConfig", "maxOutputTokens"),
        number(found, "generationConfig", "temperature"),
        label(found, "serviceTier"),
        prompt_hash(texts(at(found, "systemInstruction", "parts"))),
    )


def fold(body: Json, event: Json) -> Json:
    body["streamed"] = True
    for key in KEPT:
        if key in event:
            body[key] = event[key]
    if "usageMetadata" in event:
        body["usageMetadata"] = event["usageMetadata"]
    candidates = items(event, "candidates")
    if candidates:
        reasons = _finish_reasons(candidates)
        if reasons:
            body["reasons"] = list(reasons)
        searches = _searches(candidates)
        if searches:
            body["searches"] = searches
    return body


def response(body: Json) -> Response:
    found = mapping(body, "usageMetadata")
    candidates = items(body, "candidates")
    reasons = tuple(str(r) for r in items(body, "reasons")) or _finish_reasons(candidates)
    usage = _usage(found, count(body, "searches") or _searches(candidates))
    return Response(
        label(body, "responseId"),
        label(body, "modelVersion"),
        reasons,
        usage or _embedding_usage(body),
        label(found, "serviceTier") or label(found, "trafficType"),
        None,
        None,
        None,
        raw(found),
        body.get("streamed") is not True or bool(reasons),
    )


def _finish_reasons(candidates: list[object]) -> tuple[str, ...]:
    found = (label(candidate, "finishReason") for candidate in candidates[:64])
    return tuple(reason for reason in found if reason)


def _searches(candidates: list[object]) -> int:
    return sum(len(items(candidate, "groundingMetadata", "webSearchQueries")) for candidate in candidates)


def _usage(found: Json, searches: int) -> Usage | None:
    prompt = count(found, "promptTokenCount")
    candidates = count(found, "candidatesTokenCount")
    if candidates is None:
        candidates = count(found, "responseTokenCount")
    if prompt is None and candidates is None:
        return None
    thoughts = count(found, "thoughtsTokenCount") or 0
    tool_use = count(found, "toolUsePromptTokenCount") or 0
    into = _modalities(found, "promptTokensDetails")
    tools = _modalities(found, "toolUsePromptTokensDetails")
    cached = _modalities(found, "cacheTokensDetails")
    out = _modalities(found, "candidatesTokensDetails") or _modalities(found, "responseTokensDetails")

    def uncached(modality: str) -> int:
        return max(0, into.get(modality, 0) - cached.get(modality, 0)) + tools.get(modality, 0)

    return usages.from_totals(
        (prompt or 0) + tool_use,
        (candidates or 0) + thoughts,
        cache_read=count(found, "cachedContentTokenCount") or 0,
        reasoning=thoughts,
        input_audio=uncached("AUDIO"),
        input_image=uncached("IMAGE"),
        input_video=uncached("VIDEO"),
        cache_read_audio=cached.get("AUDIO", 0),
        cache_read_image=cached.get("IMAGE", 0),
        cache_read_video=cached.get("VIDEO", 0),
        output_audio=out.get("AUDIO", 0),
        output_image=out.get("IMAGE", 0),
        output_video=out.get("VIDEO", 0),
        web_searches=searches,
        reported_total=count(found, "totalTokenCount"),
    )


def _modalities(found: Json, name: str) -> dict[str, int]:
    totals: dict[str, int] = {}
    for item in items(found, name)[:32]:
        modality = at(item, "modality")
        if type(modality) is int:
            modality = MODALITIES.get(modality)
        if isinstance(modality, str):
            totals[modality] = totals.get(modality, 0) + (count(item, "tokenCount") or 0)
    return totals


def _embedding_usage(body: Json) -> Usage | None:
    """Vertex's `:predict` answers embeddings with statistics for each text."""
    counts = [
        count(cast("Json", at(prediction, "embeddings")), "statistics", "token_count")
        for prediction in items(body, "predictions")
    ]
    known = [n for n in counts if n is not None]
    return usages.from_totals(sum(known)) if known else None
