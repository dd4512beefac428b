"""OpenAI's images, speech and transcription: tokens where the model counts them, else images, characters, seconds."""

from __future__ import annotations

from typing import Final, NamedTuple

from spanledger.providers import Request, Response, raw
from spanledger.providers.openai_usage import read_usage
from spanledger.runtime.untrusted_json import Json, count, items, label, mapping, number
from spanledger.semconv.usage import Usage

DEFAULT_SECONDS: Final = 4
"""Length of a video where the request names none (openai 3.57 `types/video_create_params.py`)."""
OPERATIONS: Final = frozenset({"image_generation", "speech", "transcription", "retrieval", "create_container"})


class Asked(NamedTuple):
    """What a request says of the media it wants."""

    expected: Usage | None = None
    size: str | None = None
    quality: str | None = None


NOTHING: Final = Asked()


def asked(operation: str, body: Json) -> Asked:
    if operation == "video_generation":
        seconds = video_seconds(body) or (DEFAULT_SECONDS if "prompt" in body else 0)
        return Asked(Usage(video_output_ms=round(seconds * 1000)), label(body, "size")) if seconds else NOTHING
    if operation not in OPERATIONS:
        return NOTHING
    if operation == "image_generation":
        return Asked(Usage(images=1), label(body, "size"), label(body, "quality"))
    if operation == "speech":
        text = body.get("input")
        return Asked(Usage(characters=len(text))) if isinstance(text, str) else NOTHING
    if operation == "create_container":
        return Asked(Usage(code_sessions=1))
    return Asked(Usage(queries=1)) if operation == "retrieval" else NOTHING


def video_seconds(body: Json) -> float | None:
    """The length of a video; a string in openai 3.57 `types/video.py`."""
    text = label(body, "seconds") or ""
    seconds = number(body, "seconds") if not text else float(text) if text.isdecimal() else None
    return seconds if seconds is not None and 0 <= seconds < 1e6 else None


def response(body: Json, request: Request) -> Response:
    """An answer's tokens or seconds; the request's expectation stands in where it has neither."""
    usage_fields = mapping(body, "usage")
    image = request.operation == "image_generation"
    usage = read_usage(usage_fields, {}, image_output=image and "output_tokens_details" not in usage_fields)
    seconds = number(body, "duration")
    if usage is None and seconds is not None and request.operation == "transcription" and 0 <= seconds < 1e6:
        usage = Usage(audio_input_ms=round(seconds * 1000))  # whisper-1's verbose_json
    streamed = body.get("streamed") is True
    return Response(
        label(body, "id"),
        label(body, "model") if request.operation != "create_container" else None,
        (),
        usage,
        raw_usage=raw(usage_fields),
        complete=not streamed or body.get("finished") is True,
        times=(count(body, "images") or len(items(body, "data"))) if image else 1,
        size=label(body, "size"),
        quality=label(body, "quality"),
        extras=_drawings(usage_fields),
    )


def _drawings(usage_fields: Json) -> tuple[Response, ...]:
    """Tokens of the model that wrote a drawing as SVG, apart from those of the image model (SvgUsage)."""
    svg = mapping(usage_fields, "svg_usage")
    usage = read_usage(svg, {})
    if usage is None:
        return ()
    return (Response(None, label(svg, "model"), (), usage, raw_usage=raw(svg), operation="chat"),)
