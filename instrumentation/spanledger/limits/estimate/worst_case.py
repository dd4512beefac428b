"""Worst-case cost of a call before it is sent: all input at the model's most expensive input rate (a cache write costs up
to twice the rate), and all allowed output at the most expensive kind (text, audio, image) that the request may return.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from spanledger.pricing import quote
from spanledger.runtime.untrusted_json import Json, count, items, label, mapping
from spanledger.semconv.usage import CACHE_WRITE, INPUT, INPUT_PARTS, WRITE_PARTS, Usage

IMAGE_OUTPUT_TOKENS: Final = 8192
"""Of a generated image: above OpenAI's most expensive (gpt-image-1, high, 1024 x 1536: 6,208) and Google's of 4K (2,520)."""
INPUT_METERS: Final = (INPUT, CACHE_WRITE, *WRITE_PARTS)
"""Meters that may charge a text token; a cache read is never more expensive."""
MEDIA_METERS: Final = INPUT_PARTS


class PriceModifiers(NamedTuple):
    """Pricing modifiers of a request, besides its size. Hashable: they are part of the cache key of estimates."""

    service_tier: str = ""
    """The service tier, as the provider spells it."""
    speed: str = ""
    geo: str = ""
    inputs: tuple[str, ...] = INPUT_METERS
    """Meters that may charge the input."""
    outputs: tuple[str, ...] = ("output",)
    """Meters that may charge the output."""


NO_MODIFIERS: Final = PriceModifiers()


def max_cost_picousd(
    provider: str,
    model: str,
    input_tokens: int,
    output_tokens: int,
    modifiers: PriceModifiers = NO_MODIFIERS,
    expected: Usage | None = None,
    size: str = "",
    quality: str = "",
) -> int | None:
    """The maximum cost of a call, in picodollars; None if the model has no token price.

    Args:
        provider: gen_ai.provider.name.
        model: as it is asked for.
        input_tokens: the whole prompt.
        output_tokens: the maximum of the response, reasoning included.
        modifiers: service tier, speed, region and meters.
        expected: quantities stated by the request itself (images, seconds, characters).
        size: of an image or a video.
        quality: of an image.
    """
    worst = _cached_max_cost(provider, model, bucketed(input_tokens), output_tokens, modifiers)
    if expected is None:
        return worst
    expected_picousd = quote(
        provider, model, expected, tier=modifiers.service_tier, size=size, quality=quality
    ).total_picousd
    return worst if expected_picousd is None else expected_picousd if worst is None else max(worst, expected_picousd)


def bucketed(tokens: int) -> int:
    """Round up to a logarithmic bucket (32 per doubling, at most 1/32 more), so that requests of similar size share one
    cached estimate."""
    step = 1 << max(0, tokens.bit_length() - 6)
    return -(-tokens // step) * step


@lru_cache(maxsize=4096)
def _cached_max_cost(
    provider: str, model: str, input_tokens: int, output_tokens: int, modifiers: PriceModifiers
) -> int | None:
    totals: list[int] = []
    for input_meter in modifiers.inputs:
        for output_meter in modifiers.outputs:
            usage = {
                "input": input_tokens,
                "output": output_tokens,
                input_meter: input_tokens,
                output_meter: output_tokens,
            }
            total = quote(
                provider, model, usage, tier=modifiers.service_tier, speed=modifiers.speed, geo=modifiers.geo
            ).total_picousd
            if total is not None:
                totals.append(total)
    return max(totals, default=None)


def price_modifiers(body: object, model: str, service_tier: str | None, *, media: bool) -> PriceModifiers:
    """The pricing modifiers of a request.

    Args:
        body: the parsed request body.
        model: as it is asked for.
        service_tier: the requested service tier.
        media: whether the body contains media.
    """
    fields = mapping(body)
    media_meters = _media_output_meters(model)
    if not (media_meters or media or service_tier) and MODIFIER_KEYS.isdisjoint(fields):
        return NO_MODIFIERS
    kinds = {str(kind).lower() for kind in (*items(fields, "modalities"), *items(fields, "generationConfig", "responseModalities"))}  # fmt: skip
    outputs = ["output"]
    if "audio_out" in media_meters or "audio" in kinds:
        outputs.append("audio_out")
    if "image_out" in media_meters or "image" in kinds:
        outputs.append("image_out")
    inputs = (*INPUT_METERS, *MEDIA_METERS) if media else INPUT_METERS
    speed, geo = label(fields, "speed") or "", label(fields, "inference_geo") or ""
    return PriceModifiers(service_tier or "", speed, geo, inputs, tuple(outputs))


@lru_cache(maxsize=1024)
def _media_output_meters(model: str) -> tuple[str, ...]:
    """Meters of a model's non-text output, by its name."""
    spoken = "audio" in model or "tts" in model or "realtime" in model
    return ("audio_out",) * spoken + ("image_out",) * ("image" in model)


MODIFIER_KEYS: Final = frozenset({
    "modalities", "generationConfig", "speed", "inference_geo", "n", "best_of", "prompt", "parameters",
})  # fmt: skip
"""Body keys that may change the price or the number of completions."""


def completion_count(body: object) -> int:
    """Number of requested completions (OpenAI's `n` or `best_of` of each of its prompts, Google's `candidateCount` and
    `sampleCount`)."""
    fields = mapping(body)
    if MODIFIER_KEYS.isdisjoint(fields):
        return 1
    counts = (
        count(fields, "n"),
        count(fields, "best_of"),
        count(fields, "generationConfig", "candidateCount"),
        count(fields, "parameters", "sampleCount"),
    )
    prompts = [
        prompt for prompt in items(fields, "prompt") if not isinstance(prompt, int)
    ]  # a list of tokens is one prompt
    return max(1, len(prompts)) * max(1, *(number or 1 for number in counts))


def inline_requests(body: object) -> list[Json]:
    """The inline requests of a batch (Anthropic, Google)."""
    requests = [mapping(request, "params") for request in items(body, "requests")]
    return requests or [
        mapping(request, "request") for request in items(body, "batch", "inputConfig", "requests", "requests")
    ]


def max_completion_tokens(body: Json, assumed: int) -> int:
    """Maximum output tokens of one batch request; `assumed` if it sets no maximum."""
    max_tokens = count(body, "max_tokens") or count(body, "generationConfig", "maxOutputTokens")
    return completion_count(body) * (max_tokens or assumed)
