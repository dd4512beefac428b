"""Google's wire format: generateContent and the embedding calls, of the Gemini API and of Vertex AI.

`promptTokenCount` includes cached content but neither tool-use prompts nor thoughts: the total is
prompt + tool-use prompt + candidates + thoughts (google-genai 3.6 `types.py`). Streams repeat running
totals in (nearly) every chunk: the last one wins, they are never summed. `google_jobs.py` reads interactions
and what is asked about later.
"""

from __future__ import annotations

import re
from typing import Final, cast

from spanledger.providers import (
    UNKNOWN_OPERATION,
    Request,
    Response,
    compact_usage,
    google_jobs,
    prompt_hash,
    several,
    texts,
)
from spanledger.providers.google_jobs import modalities
from spanledger.providers.unread import unread_names
from spanledger.runtime.untrusted_json import Json, count, get_path, items, label, mapping, number
from spanledger.semconv import usage as usages
from spanledger.semconv.evidence import FEE_UNKNOWN
from spanledger.semconv.usage import Usage

NAME: Final = "gcp.gemini"

OPERATIONS: Final = {
    "generateContent": "generate_content",
    "streamGenerateContent": "generate_content",
    "embedContent": "embeddings",
    "batchEmbedContents": "embeddings",
    "predict": "image_generation",
    "predictLongRunning": "video_generation",
    "fetchPredictOperation": "video_generation",
    "cachedContents": "create_cache",
    "interactions": "generate_content",
    "decisions": "generate_content",
    "voices": "speech",
}
"""Verb, or last collection, of the path -> `gen_ai.operation.name`, in the conventions' words where they have one."""

BATCHES: Final = {
    "batchGenerateContent": "generate_content",
    "asyncBatchEmbedContent": "embeddings",
    "batchPredictionJobs": "generate_content",
}
"""Verbs and collections that begin a batch -> the operation of its requests."""

UNBILLED_VERBS: Final = frozenset({
    "countTokens", "computeTokens", "tuningJobs", "tunedModels", "files", "upload", "auth_tokens", "cancel", "register", "fileSearchStores", "agents",
    "validateReinforcementTuningReward", "importFile", "uploadToFileSearchStore", "webhooks", "triggers", "environments",
    "credentials", "executions", "ping", "rotateSigningSecret",
})  # fmt: skip
"""Verbs and collections that sell nothing; what the execution of a trigger uses is its interaction's."""

MODEL: Final = re.compile(r"([^/:?]+):(\w+)(?:\?.*)?$")
COLLECTION: Final = re.compile(r"/(\w+)(?:\?.*)?$")
POLL_PATH: Final = re.compile(
    r"/(operations|batches|batchPredictionJobs|tuningJobs|tunedModels|interactions)/([^/?:]+)(?:\?.*)?$"
)
DETAILS: Final = (
    "promptTokensDetails", "promptTokenDetails", "cacheTokensDetails", "candidatesTokensDetails", "responseTokensDetails", "toolUsePromptTokensDetails",
)  # fmt: skip
KNOWN: Final = frozenset({
    "promptTokenCount", "candidatesTokenCount", "responseTokenCount", "totalTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount",
    "cachedContentTokenCount", "audioDurationSeconds", "imageCount", "textCount", "videoDurationSeconds",
    *(f"{name}.tokenCount" for name in DETAILS),
})  # fmt: skip
"""Numbers of a usage object that are read, or say again what its tokens say (those of a cache)."""
DOWNLOAD_PATH: Final = re.compile(r"/(files/[^/?:]+):download")
RESPONSE_FIELDS: Final = ("responseId", "modelVersion")
DEFAULT_SECONDS: Final = 8
"""Length of a Veo video where the request names none."""


def request(method: str, path: str, body: object) -> Request | None:
    if method.upper() != "POST":
        return _poll_request(path) if method.upper() == "GET" else None
    fields = mapping(body)
    match = MODEL.search(path)
    collection = COLLECTION.search(path)
    verb = match[2] if match else collection[1] if collection else ""
    if verb in UNBILLED_VERBS:
        return None
    model = label(match[1]) if match else label(fields, "model")
    if verb in BATCHES:
        return Request(BATCHES[verb], model, is_poll=True, starts_job=True, batch=True)
    operation = OPERATIONS.get(verb, UNKNOWN_OPERATION)
    expected = None
    if operation == "image_generation":
        if model is not None and ("embedding" in model or "gecko" in model):
            operation = "embeddings"
        else:
            expected = Usage(images=1)
    elif verb == "predictLongRunning":
        seconds = number(fields, "parameters", "durationSeconds") or DEFAULT_SECONDS
        expected = Usage(video_output_ms=round(seconds * 1000)) if 0 < seconds < 1e6 else None
    return Request(
        operation,
        model,
        verb == "streamGenerateContent" or fields.get("stream") is True,
        count(fields, "generationConfig", "maxOutputTokens"),
        number(fields, "generationConfig", "temperature"),
        label(fields, "serviceTier"),
        prompt_hash(texts(get_path(fields, "systemInstruction", "parts"))),
        expected_usage=expected,
        size=label(fields, "parameters", "resolution"),
        is_poll=verb in ("predictLongRunning", "fetchPredictOperation") or fields.get("background") is True,
        parent_id=label(fields, "operationName"),
        starts_job=verb == "predictLongRunning" or fields.get("background") is True,
        reasoning_level=label(fields, "generationConfig", "thinkingConfig", "thinkingLevel"),
        choice_count=several(count(fields, "generationConfig", "candidateCount")),
    )


def _poll_request(path: str) -> Request | None:
    """A GET that polls a job or downloads results; None for any other."""
    polled = POLL_PATH.search(path)
    if polled is not None:
        operation = {"operations": "video_generation", "interactions": "generate_content"}.get(polled[1])
        training = polled[1] in ("tuningJobs", "tunedModels")
        return Request(
            operation or ("fine_tuning" if training else "generate_content"), is_poll=True, parent_id=polled[2]
        )
    downloaded = DOWNLOAD_PATH.search(path)
    return Request("generate_content", is_json_lines=True, parent_id=downloaded[1]) if downloaded else None


def fold(body: Json, event: Json) -> Json:
    if "event_type" in event:
        return google_jobs.fold(body, event)
    body["streamed"] = True
    for key in RESPONSE_FIELDS:
        if key in event:
            body[key] = event[key]
    if "usageMetadata" in event:
        body["usageMetadata"] = event["usageMetadata"]
    candidates = items(event, "candidates")
    if candidates:
        reasons = _finish_reasons(candidates)
        if reasons:
            body["reasons"] = list(reasons)
        grounding = _grounding(candidates, mapping(body, "grounding"))
        if grounding:
            body["grounding"] = grounding
    return body


def response(body: Json, request: Request | None = None, provider: str = "") -> Response:
    if request is not None and request.is_json_lines:
        return google_jobs.read_line(body, request, response)
    if request is not None and (request.is_poll or "done" in body):
        return google_jobs.read_poll(body, response)
    if "usage" in body and "usageMetadata" not in body:
        return google_jobs.interaction(body)
    usage_fields = mapping(body, "usageMetadata")
    candidates = items(body, "candidates")
    reasons = tuple(str(r) for r in items(body, "reasons")) or _finish_reasons(candidates)
    model = label(body, "modelVersion")
    grounding = mapping(body, "grounding") or _grounding(candidates, {})
    usage = _usage(usage_fields, grounding)
    usage, doubts = google_jobs.as_images(usage, model, is_stated=_states_output(usage_fields))
    if "retrievedContext" in items(grounding, "kinds") and provider == "gcp.vertex_ai":
        doubts = (*doubts, FEE_UNKNOWN)  # grounding with data of one's own has a fee there, by its kind
    return Response(
        label(body, "responseId"),
        model,
        reasons,
        usage or _embedding_usage(body, (request.model if request is not None else None) or model or ""),
        label(usage_fields, "serviceTier") or label(usage_fields, "trafficType"),
        None,
        None,
        None,
        compact_usage(usage_fields),
        body.get("streamed") is not True or bool(reasons),
        quantity=_delivered(body) if request is not None and request.expected_usage is not None else 1,
        unread=unread_names(usage_fields, KNOWN),
        doubts=doubts,
    )


def _finish_reasons(candidates: list[object]) -> tuple[str, ...]:
    reasons = (label(candidate, "finishReason") for candidate in candidates[:64])
    return tuple(reason for reason in reasons if reason)


def _delivered(body: Json) -> int:
    """How many images were delivered; what a filter has withheld is not billed."""
    images = ("bytesBase64Encoded", "gcsUri")
    return sum(any(get_path(part, name) for name in images) for part in items(body, "predictions"))


def _states_output(usage_fields: Json) -> bool:
    return bool(items(usage_fields, "candidatesTokensDetails") or items(usage_fields, "responseTokensDetails"))


def _grounding(candidates: list[object], before: Json) -> Json:
    """What an answer was grounded in: hashes of the different queries that are not empty, and the kinds of sources.

    `before`: of the events before, whose queries may be repeated.
    """
    queries = {query for query in items(before, "queries") if isinstance(query, int)}
    kinds = {kind for kind in items(before, "kinds") if isinstance(kind, str)}
    for candidate in candidates[:64]:
        metadata = mapping(candidate, "groundingMetadata")
        if not metadata:
            continue
        for kind in ("webSearchQueries", "imageSearchQueries"):
            texts_asked = (query.strip() for query in items(metadata, kind) if isinstance(query, str))
            queries.update(hash((kind, query)) for query in texts_asked if query)
        for chunk in items(metadata, "groundingChunks"):
            kinds.update(kind for kind in ("maps", "web", "retrievedContext") if kind in mapping(chunk))
        if metadata.get("googleMapsWidgetContextToken"):
            kinds.add("maps")
    return {"queries": sorted(queries), "kinds": sorted(kinds)} if queries or kinds else {}


def _fees(grounding: Json) -> dict[str, int]:
    """Searches and uses of Maps: a prompt that only Maps has answered is no search (ai.google.dev/gemini-api/docs/maps-grounding)."""
    queries, kinds = len(items(grounding, "queries")), items(grounding, "kinds")
    if "maps" in kinds and "web" not in kinds:
        return {"maps_queries": max(1, queries)}
    searches = queries or ("web" in kinds)
    return {"web_searches": int(searches), "maps_queries": int("maps" in kinds)} if kinds or queries else {}


def _usage(usage_fields: Json, grounding: Json) -> Usage | None:
    prompt = count(usage_fields, "promptTokenCount")
    candidates = count(usage_fields, "candidatesTokenCount")
    if candidates is None:
        candidates = count(usage_fields, "responseTokenCount")
    if prompt is None and candidates is None:
        # A cache states only its size (cachedContents): what was read to make it.
        cached = count(usage_fields, "totalTokenCount")
        return usages.from_totals(cached, reported_total=cached) if cached else None
    thoughts = count(usage_fields, "thoughtsTokenCount") or 0
    tool_use = count(usage_fields, "toolUsePromptTokenCount") or 0
    into = modalities(usage_fields, "promptTokensDetails") or modalities(usage_fields, "promptTokenDetails")
    tools = modalities(usage_fields, "toolUsePromptTokensDetails")
    cached = modalities(usage_fields, "cacheTokensDetails")
    out = modalities(usage_fields, "candidatesTokensDetails") or modalities(usage_fields, "responseTokensDetails")

    def uncached(modality: str) -> int:
        return max(0, into.get(modality, 0) - cached.get(modality, 0)) + tools.get(modality, 0)

    return usages.from_totals(
        (prompt or 0) + tool_use,
        (candidates or 0) + thoughts,
        cache_read=count(usage_fields, "cachedContentTokenCount") or 0,
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
        **_fees(grounding),
        reported_total=count(usage_fields, "totalTokenCount"),
    )


def _embedding_usage(body: Json, model: str) -> Usage | None:
    """Vertex's `:predict` answers embeddings with statistics for each text, and with characters, which older models are billed by."""
    characters = count(body, "metadata", "billableCharacterCount")
    if characters and "gemini-embedding" not in model:
        return Usage(characters=characters)
    counts = [
        count(cast("Json", get_path(prediction, "embeddings")), "statistics", "token_count")
        for prediction in items(body, "predictions")
    ]
    token_counts = [n for n in counts if n is not None]
    return usages.from_totals(sum(token_counts)) if token_counts else None
