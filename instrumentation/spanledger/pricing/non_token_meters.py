"""Prices non-token meters: images, seconds of audio and video, characters, pages, queries.

They are charged only if the response has no tokens: models that count both (gpt-image-1, gpt-4o-transcribe)
have a rate for either, and the tokens are what is billed. Sizes and qualities of images are keys of their
own in LiteLLM's table (`hd/1024-x-1024/dall-e-3`, see `size_specific_names`), resolutions are suffixes of a field
(`output_cost_per_second_1080p`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from spanledger.pricing.price import Component, round_half_even
from spanledger.pricing.rates import Entry, attousd
from spanledger.semconv.usage import METERS, OTHER, Usage

OTHER_METERS: Final = {name: meter for name, meter in METERS.items() if meter.group == OTHER}

MINIMUM: Final = {("groq", "audio_input_ms"): 10_000}
"""(LiteLLM's provider, meter) -> the least that a request is billed for (groq.com/pricing: 10 seconds)."""

PIXELS: Final = ("input_cost_per_pixel", "output_cost_per_pixel")


def uses_non_token_meters(usage: Usage) -> bool:
    """Whether the call is billed by non-token meters: it has some, and no tokens."""
    return usage.total == 0 and any(getattr(usage, meter) for meter in OTHER_METERS)


def components(entry: Entry, usage: Usage, suffix: str, size: str) -> list[Component] | None:
    """One component per meter used, or None if the entry lacks a rate.

    `suffix` is the tier as the table spells it, `size` that of an image or a video ("1024x1024", "1080p").
    """
    parts: list[Component] = []
    for meter, row in OTHER_METERS.items():
        quantity = getattr(usage, meter)
        if not quantity:
            continue
        rate = _rate(entry, row.prices, suffix, size)
        if rate is None and meter == "images":
            rate = _pixel_rate(entry, size)
        if rate is None:
            return None
        atto, field = rate
        quantity = max(quantity, MINIMUM.get((entry.provider, meter), 0))
        parts.append(Component(meter, quantity, atto // row.per, field, round_half_even(quantity * atto, row.per)))
    return parts


def _rate(entry: Entry, fields: tuple[str, ...], suffix: str, size: str) -> tuple[int, str] | None:
    for field in fields:
        for name in _field_names(field, suffix, size):
            rate = attousd(entry.json.get(name))
            if rate is not None:
                return rate, name
    return None


def _field_names(field: str, suffix: str, size: str) -> Iterator[str]:
    for resolution in (f"_{resolution_suffix(size)}", "") if size else ("",):
        if suffix:
            yield f"{field}{resolution}_{suffix}"
        yield f"{field}{resolution}"


def resolution_suffix(size: str) -> str:
    """A size as the table's suffixes have it: "1920x1080" and "1080p" -> "1080p", "4K" -> "4k" (of a video)."""
    width, height = pixel_dimensions(size)
    if width and height:
        lines = min(width, height)
        return "4k" if lines >= 2160 else f"{lines}p"
    return size.lower() if size.lower() in ("4k", "2k") or size.endswith("p") else size


def pixel_dimensions(size: str) -> tuple[int, int]:
    """(width, height) of "1024x768" or "1024-x-768"; (0, 0) if it is not a valid size."""
    width, _, height = size.lower().replace("-", "").partition("x")
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else (0, 0)


def _pixel_rate(entry: Entry, size: str) -> tuple[int, str] | None:
    width, height = pixel_dimensions(size)
    for name in PIXELS:
        rate = attousd(entry.json.get(name))
        if rate and width:
            return rate * width * height, name
    return None


def size_specific_names(name: str, size: str, quality: str) -> Iterator[str]:
    """The names under which the table may list an image model at a size and a quality, the most exact first."""
    width, height = pixel_dimensions(size)
    if not width:
        return
    for grade in dict.fromkeys((quality, "standard", "")):
        yield f"{grade}/{width}-x-{height}/{name}".lstrip("/")
