"""What a call may cost at most, before it is made.

Tokens of a text: one a byte of UTF-8, which no byte-level tokenizer exceeds (each token stands for at least one byte);
where that would be too much, as a tokenizer counts them (tokenizer.py). The cost is that of all input at the dearest way
the model has of charging it (a cache write costs up to twice the rate) and of all output allowed, at the dearest kind
(text, sound, image) that the request may be answered with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from spanledger.pricing import quote
from spanledger.reading import items, label, mapping
from spanledger.usage import Usage

MESSAGE_TOKENS: Final = 16
"""Of a message's role and separators, generously (OpenAI's chat format takes 3 or 4)."""
MEDIA_TOKENS: Final = 6000
"""Of an image, a sound or a file in a request: above what providers count for an image of the largest size they take
(OpenAI 5,000 tokens, Anthropic some 4,800). Of longer sounds and documents it is too little."""
MEDIA_KEYS: Final = frozenset({"data", "url", "file_data", "image_url", "inline_data", "inlineData", "b64_json"})
"""Keys whose long texts are media, not words."""
NUMBER_TOKENS: Final = 24
"""Of a number, true, false or null: no more than the digits of the longest."""
SCALARS: Final = frozenset({int, float, bool, type(None)})
DEEPEST: Final = 100
"""What is nested deeper counts as media."""
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
    provider: str, model: str, input_tokens: int, output_tokens: int, ask: Ask = PLAIN, expected: Usage | None = None
) -> int | None:
    """The most that a call may cost, in picodollars; None where the model has no price by tokens.

    Args:
        provider: gen_ai.provider.name.
        model: as it is asked for.
        input_tokens: all of the prompt.
        output_tokens: all that may be answered, reasoning included.
        ask: what else decides the price.
        expected: what the request itself says is sold (images, seconds, characters).
    """
    worst = _worst(provider, model, stepped(input_tokens), output_tokens, ask)
    if expected is None:
        return worst
    made = quote(provider, model, expected, tier=ask.tier).total_picousd
    return worst if made is None else made if worst is None else max(worst, made)


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
    found = mapping(body)
    spoken = "audio" in model or "tts" in model or "realtime" in model
    drawn = "image" in model
    if not (media or tier or spoken or drawn) and SPECIAL.isdisjoint(found):
        return PLAIN
    kinds = {str(kind).lower() for kind in (*items(found, "modalities"), *items(found, "generationConfig", "responseModalities"))}  # fmt: skip
    outputs = ["output"]
    if spoken or "audio" in kinds:
        outputs.append("audio_out")
    if drawn or "image" in kinds:
        outputs.append("image_out")
    inputs = (*INPUT_METERS, *MEDIA_METERS) if media else INPUT_METERS
    speed, geo = label(found, "speed") or "", label(found, "inference_geo") or ""
    return Ask(tier or "", speed, geo, inputs, tuple(outputs))


SPECIAL: Final = frozenset({"modalities", "generationConfig", "speed", "inference_geo"})
"""Keys of a body that may change its price."""


def choices(body: Any) -> int:
    """How many answers a request asks for (OpenAI's `n` of each of its prompts, Google's `candidateCount`)."""
    if not isinstance(body, dict):
        return 1
    found = cast("dict[str, Any]", body)
    asked = found.get("n")
    if asked is None and "generationConfig" in found:
        asked = mapping(found, "generationConfig").get("candidateCount")
    prompts = len(items(found, "prompt")) if "prompt" in found else 1
    return max(1, prompts) * (asked if type(asked) is int and asked > 1 else 1)


def text_tokens(*texts: str) -> int:
    """A bound of the tokens of messages' texts, by their bytes."""
    return sum(text_bytes(text) + MESSAGE_TOKENS for text in texts)


def text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class Size:
    """A bound of the tokens of a request's body: its texts (names and schemas of tools included) by `counted`, media by
    MEDIA_TOKENS each. What the provider keeps from before (previous_response_id, files by id, a cache by name) is not in
    the body and not counted."""

    __slots__ = ("_counted", "media", "tokens")

    def __init__(self, body: Any, counted: Callable[[str], int] = text_bytes, media: int = 0) -> None:
        """`media`: pieces that go beside the body (files)."""
        self._counted = counted
        self.media = media
        self.tokens = self._of(body, "", 0)
        self.tokens += self.media * MEDIA_TOKENS

    def _of(self, body: Any, key: str, depth: int) -> int:
        if isinstance(body, dict):
            return self._table(cast("dict[Any, Any]", body), depth)
        if isinstance(body, list | tuple):
            total = 0
            for each in cast("list[Any]", body):
                total += self._of(each, key, depth + 1)
            return total
        if isinstance(body, str):
            if key in MEDIA_KEYS and (len(body) > 1000 or body.startswith(("data:", "http"))):
                self.media += 1
                return 0
            return self._counted(body)
        if isinstance(body, bytes | bytearray | memoryview):
            self.media += 1
            return 0
        if type(body) in SCALARS:
            return NUMBER_TOKENS
        fields = getattr(body, "__dict__", None)  # an answer's block, given back as part of the next prompt
        return self._table(cast("dict[Any, Any]", fields), depth) if isinstance(fields, dict) else len(str(body))

    def _table(self, found: dict[Any, Any], depth: int) -> int:
        if depth > DEEPEST:
            self.media += 1
            return 0
        worded = "media_type" in found and str(found["media_type"]).startswith("text/")
        total = MESSAGE_TOKENS
        for name, value in found.items():
            total += len(name) if type(name) is str else len(str(name))
            if type(value) is str and (worded or name not in MEDIA_KEYS):
                total += self._counted(value)
            elif type(value) in SCALARS:
                total += NUMBER_TOKENS
            else:
                total += self._of(value, name, depth + 1)
        return total


def body_tokens(body: Any, counted: Callable[[str], int] = text_bytes) -> int:
    """A bound of the tokens of a request's body (see `Size`)."""
    return Size(body, counted).tokens
