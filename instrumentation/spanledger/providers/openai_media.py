"""OpenAI's images, speech and transcription: tokens where the model counts them, else images, characters, seconds."""

from __future__ import annotations

from typing import Final, NamedTuple

from spanledger.providers import Request, Response, compact_usage
from spanledger.providers.openai_usage import read_usage
from spanledger.providers.unread import unread_names
from spanledger.runtime.untrusted_json import Json, count, items, label, mapping, number
from spanledger.semconv.dialects import known_names, stated_cost
from spanledger.semconv.usage import Usage

DEFAULT_SECONDS: Final = 4
"""Length of a video where the request names none (openai 3.57 `types/video_create_params.py`)."""
OPERATIONS: Final = frozenset({"image_generation", "speech", "transcription", "retrieval", "create_container"})


class MediaRequest(NamedTuple):
    """The media parameters of a request: expected usage, size and quality."""

    expected: Usage | None = None
    size: str | None = None
    quality: str | None = None


NO_MEDIA: Final = MediaRequest()


def media_request(operation: str, body: Json) -> MediaRequest:
    if operation == "video_generation":
        seconds = video_seconds(body) or (DEFAULT_SECONDS if "prompt" in body else 0)
        return MediaRequest(Usage(video_output_ms=round(seconds * 1000)), label(body, "size")) if seconds else NO_MEDIA
    if operation not in OPERATIONS:
        return NO_MEDIA
    if operation == "image_generation":
        return MediaRequest(Usage(images=1), label(body, "size"), label(body, "quality"))
    if operation == "speech":
        text = body.get("input")
        return MediaRequest(Usage(characters=len(text))) if isinstance(text, str) else NO_MEDIA
    if operation == "create_container":
        return MediaRequest(Usage(code_sessions=1), label(body, "memory_limit"))
    return MediaRequest(Usage(queries=1)) if operation == "retrieval" else NO_MEDIA


def video_seconds(body: Json) -> float | None:
    """The length of a video; a string in openai 3.57 `types/video.py`."""
    text = label(body, "seconds") or ""
    seconds = number(body, "seconds") if not text else float(text) if text.isdecimal() else None
    return seconds if seconds is not None and 0 <= seconds < 1e6 else None


def response(body: Json, request: Request, provider: str = "") -> Response:
    """An answer's tokens or seconds; the request's expectation stands in where it has neither."""
    usage_fields = mapping(body, "usage")
    image = request.operation == "image_generation"
    whole_output = "output_audio" if request.operation == "speech" else "output_image" if image else ""
    usage = read_usage(usage_fields, {}, whole_output="" if "output_tokens_details" in usage_fields else whole_output)
    seconds = number(body, "duration")
    if usage is None and seconds is not None and request.operation == "transcription" and 0 <= seconds < 1e6:
        usage = Usage(audio_input_ms=round(seconds * 1000))  # whisper-1's verbose_json
    heard = number(usage_fields, "prompt_audio_seconds")
    if heard is not None and request.operation == "transcription" and 0 < heard < 1e6:
        usage = Usage(
            audio_input_ms=round(heard * 1000)
        )  # Mistral's, which bills what was heard (docs.mistral.ai/capabilities/audio)
    streamed = body.get("streamed") is True
    return Response(
        label(body, "id"),
        label(body, "model") if request.operation != "create_container" else None,
        (),
        usage,
        raw_usage=compact_usage(usage_fields),
        complete=not streamed or body.get("finished") is True,
        quantity=(count(body, "images") or len(items(body, "data"))) if image else 1,
        size=label(body, "size"),
        quality=label(body, "quality"),
        extras=_svg_responses(usage_fields),
        containers=(label(body, "id") or "",) if request.operation == "create_container" and "id" in body else (),
        unread=unread_names({k: v for k, v in usage_fields.items() if k != "svg_usage"}, known_names(provider)),
        provider_cost_usd=stated_cost(usage_fields),
    )


def _svg_responses(usage_fields: Json) -> tuple[Response, ...]:
    """Tokens of the model that wrote a drawing as SVG, apart from those of the image model (SvgUsage)."""
    svg = mapping(usage_fields, "svg_usage")
    usage = read_usage(svg, {})
    if usage is None:
        return ()
    unread = unread_names(svg, known_names("openai"))
    return (
        Response(None, label(svg, "model"), (), usage, raw_usage=compact_usage(svg), operation="chat", unread=unread),
    )
