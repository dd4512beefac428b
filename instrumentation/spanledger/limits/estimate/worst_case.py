"""What a call may cost at most, before it is made: all input at the dearest way the model has of charging it (a cache write
costs up to twice the rate) and all output allowed, at the dearest kind (text, sound, image) that the request may be
answered with.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from spanledger.pricing import quote
from spanledger.runtime.untrusted_json import Json, count, items, label, mapping
from spanledger.semconv.usage import Usage

IMAGE_OUTPUT_TOKENS: Final = 8192
"""Of an image that is made: above OpenAI's dearest (gpt-image-1, high, 1024 x 1536: 6,208) and Google's of 4K (2,520)."""
INPUT_METERS: Final = ("input", "cache_write", "cache_write_1h")
"""Ways in which a token of text may be charged; what is read from a cache is never dearer."""
MEDIA_METERS: Final = ("audio_in", "image_in")


class Ask(NamedTuple):
    """What a request says of its price besides its size. All of it can be compared: estimates are looked up by it."""

    tier: str = ""
    """The service tier, as the provider spells it."""
    speed: str = ""
    geo: str = ""
    inputs: tuple[str, ...] = INPUT_METERS
    """Meters that its input may be charged at."""
    outputs: tuple[str, ...] = ("output",)
    """Meters that its answer may be charged at."""


PLAIN: Final = Ask()


def worst_picousd(
    provider: str,
    model: str,
    input_tokens: int,
    output_tokens: int,
    ask: Ask = PLAIN,
    expected: Usage | None = None,
    size: str = "",
    quality: str = "",
) -> int | None:
    """The most that a call may cost, in picodollars; None where the model has no price by tokens.

    Args:
        provider: gen_ai.provider.name.
        model: as it is asked for.
        input_tokens: all of the prompt.
        output_tokens: all that may be answered, reasoning included.
        ask: what else decides the price.
        expected: what the request itself says is sold (images, seconds, characters), all of it.
        size: of an image or a video.
        quality: of an image.
    """
    worst = _worst(provider, model, stepped(input_tokens), output_tokens, ask)
    if expected is None:
        return worst
    expected_picousd = quote(provider, model, expected, tier=ask.tier, size=size, quality=quality).total_picousd
    return worst if expected_picousd is None else expected_picousd if worst is None else max(worst, expected_picousd)


def stepped(tokens: int) -> int:
    """The next number up of which there are 32 in each doubling, at most a thirty-second more: estimates of requests of
    about the same size are one estimate."""
    step = 1 << max(0, tokens.bit_length() - 6)
    return -(-tokens // step) * step


@lru_cache(maxsize=4096)
def _worst(provider: str, model: str, input_tokens: int, output_tokens: int, ask: Ask) -> int | None:
    totals: list[int] = []
    for read in ask.inputs:
        for written in ask.outputs:
            usage = {"input": input_tokens, "output": output_tokens, read: input_tokens, written: output_tokens}
            total = quote(provider, model, usage, tier=ask.tier, speed=ask.speed, geo=ask.geo).total_picousd
            if total is not None:
                totals.append(total)
    return max(totals, default=None)


def asks(body: object, model: str, tier: str | None, *, media: bool) -> Ask:
    """What a request says of its price.

    Args:
        body: as it goes to the provider, parsed.
        model: as it is asked for.
        tier: the service tier that it asks for.
        media: whether there is any in it.
    """
    fields = mapping(body)
    media_meters = _made_by(model)
    if not (media_meters or media or tier) and UNUSUAL.isdisjoint(fields):
        return PLAIN
    kinds = {str(kind).lower() for kind in (*items(fields, "modalities"), *items(fields, "generationConfig", "responseModalities"))}  # fmt: skip
    outputs = ["output"]
    if "audio_out" in media_meters or "audio" in kinds:
        outputs.append("audio_out")
    if "image_out" in media_meters or "image" in kinds:
        outputs.append("image_out")
    inputs = (*INPUT_METERS, *MEDIA_METERS) if media else INPUT_METERS
    speed, geo = label(fields, "speed") or "", label(fields, "inference_geo") or ""
    return Ask(tier or "", speed, geo, inputs, tuple(outputs))


@lru_cache(maxsize=1024)
def _made_by(model: str) -> tuple[str, ...]:
    """Meters of what a model makes besides text, by its name."""
    spoken = "audio" in model or "tts" in model or "realtime" in model
    return ("audio_out",) * spoken + ("image_out",) * ("image" in model)


UNUSUAL: Final = frozenset({
    "modalities", "generationConfig", "speed", "inference_geo", "n", "best_of", "prompt", "parameters",
})  # fmt: skip
"""Keys of a body that may change its price, or ask for more than one answer."""


def choices(body: object) -> int:
    """How many answers a request asks for (OpenAI's `n` or `best_of` of each of its prompts, Google's `candidateCount` and
    `sampleCount`)."""
    fields = mapping(body)
    if UNUSUAL.isdisjoint(fields):
        return 1
    counts = (
        count(fields, "n"),
        count(fields, "best_of"),
        count(fields, "generationConfig", "candidateCount"),
        count(fields, "parameters", "sampleCount"),
    )
    prompts = [prompt for prompt in items(fields, "prompt") if not isinstance(prompt, int)]  # a list of tokens is one prompt
    return max(1, len(prompts)) * max(1, *(number or 1 for number in counts))


def batched(body: object) -> list[Json]:
    """The requests of a batch that has them in it (Anthropic, Google)."""
    requests = [mapping(request, "params") for request in items(body, "requests")]
    return requests or [mapping(request, "request") for request in items(body, "batch", "inputConfig", "requests", "requests")]


def largest_answer(body: Json, assumed: int) -> int:
    """Tokens that the answers to a request of a batch may have; `assumed` of one that does not say it."""
    max_tokens = count(body, "max_tokens") or count(body, "generationConfig", "maxOutputTokens")
    return choices(body) * (max_tokens or assumed)
