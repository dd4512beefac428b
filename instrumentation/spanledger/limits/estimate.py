"""What a call may cost at most, before it is made.

Tokens of a text: one a byte of UTF-8, which no byte-level tokenizer exceeds (each token stands for at least one byte), and
some for what stands around it; where that would be too much, as a tokenizer counts them (tokenizer.py). The cost is that of all input at the dearest way
the model has of charging it (a cache write costs up to twice the rate) and of all output allowed, at the dearest kind
(text, sound, image) that the request may be answered with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from spanledger.pricing import quote
from spanledger.reading import Json, count, items, label, mapping
from spanledger.usage import Usage

MESSAGE_TOKENS: Final = 16
"""Of a message's role and separators, generously (OpenAI's chat format takes 3 or 4)."""
MEDIA_TOKENS: Final = 6000
"""Of an image, a sound or a file in a request: above what providers count for an image of the largest size they take
(OpenAI 5,000 tokens, Anthropic some 4,800). Of longer sounds and documents it is too little."""
AROUND_TOKENS: Final = 4
"""Of quotes, commas and colons around a name, or a text in a list, as they stand in a schema."""
IMAGE_OUTPUT_TOKENS: Final = 8192
"""Of an image that is made: above OpenAI's dearest (gpt-image-1, high, 1024 x 1536: 6,208) and Google's of 4K (2,520)."""
MEDIA_KEYS: Final = frozenset({
    "data", "url", "file_data", "file_url", "image_url", "inline_data", "inlineData", "b64_json", "fileUri", "file_uri",
})  # fmt: skip
"""Keys whose texts are media, not words, where the table that they stand in is of media."""
MEDIA_TYPES: Final = frozenset({
    "base64", "url", "file", "image", "image_url", "input_image", "input_file", "input_audio", "input_video", "video_url",
    "document", "audio", "video",
})  # fmt: skip
MEDIA_TABLES: Final = frozenset({
    "image_url", "input_audio", "inline_data", "inlineData", "file_data", "fileData", "file", "source", "video_url", "audio",
})  # fmt: skip
"""Keys whose tables are of media."""
WORDS: Final = frozenset({"args", "response", "arguments", "tool_use", "server_tool_use", "mcp_tool_use"})
"""Keys, and types of a table, below which all is words: what a model asked a tool, and what it was told."""
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
    made = quote(provider, model, expected, tier=ask.tier, size=size, quality=quality).total_picousd
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
    """How many answers a request asks for (OpenAI's `n` or `best_of` of each of its prompts, Google's `candidateCount` and
    `sampleCount`)."""
    if not isinstance(body, dict) or MANY.isdisjoint(cast("dict[str, Any]", body)):
        return 1
    found = cast("dict[str, Any]", body)
    asked = (
        count(found, "n"),
        count(found, "best_of"),
        count(found, "generationConfig", "candidateCount"),
        count(found, "parameters", "sampleCount"),
    )
    prompts = [each for each in items(found, "prompt") if not isinstance(each, int)]  # a list of tokens is one prompt
    return max(1, len(prompts)) * max(1, *(each or 1 for each in asked))


MANY: Final = frozenset({"n", "best_of", "prompt", "generationConfig", "parameters"})
"""Keys of a body that may ask for more than one answer."""


def batched(body: object) -> list[Json]:
    """The requests of a batch that has them in it (Anthropic, Google)."""
    found = [mapping(each, "params") for each in items(body, "requests")]
    return found or [mapping(each, "request") for each in items(body, "batch", "inputConfig", "requests", "requests")]


def largest_answer(body: Json, assumed: int) -> int:
    """Tokens that the answers to a request of a batch may have; `assumed` of one that does not say it."""
    said = count(body, "max_tokens") or count(body, "generationConfig", "maxOutputTokens")
    return choices(body) * (said or assumed)


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
        self.tokens = self._of(body, "", 0, words=False)
        self.tokens += self.media * MEDIA_TOKENS

    def _of(self, body: Any, key: str, depth: int, *, words: bool) -> int:
        if isinstance(body, dict):
            return self._table(cast("dict[Any, Any]", body), key, depth, words=words)
        if isinstance(body, list | tuple):
            if _is_tokens(cast("list[Any]", body)):
                return len(cast("list[Any]", body))
            total = 0
            for each in cast("list[Any]", body):
                total += AROUND_TOKENS + self._of(each, key, depth + 1, words=words)
            return total
        if isinstance(body, str):
            return self._counted(body)
        if isinstance(body, bytes | bytearray | memoryview):
            self.media += 1
            return 0
        if type(body) in SCALARS:
            return NUMBER_TOKENS
        fields = getattr(body, "__dict__", None)  # an answer's block, given back as part of the next prompt
        if not isinstance(fields, dict):
            return text_bytes(str(body))
        return self._table(cast("dict[Any, Any]", fields), key, depth, words=words)

    def _table(self, found: dict[Any, Any], key: str, depth: int, *, words: bool) -> int:
        if depth > DEEPEST:
            self.media += 1
            return 0
        kind = found.get("type")
        if type(kind) is not str:
            kind = ""
        words = words or kind in WORDS
        total = MESSAGE_TOKENS
        for name, value in found.items():
            total += AROUND_TOKENS + (len(name) if type(name) is str and name.isascii() else text_bytes(str(name)))
            if type(value) is str:
                if name in MEDIA_KEYS and not words and _is_media(found, kind, key, value):
                    self.media += 1
                else:
                    total += self._counted(value)
            elif type(value) in SCALARS:
                total += NUMBER_TOKENS
            else:
                total += self._of(value, name, depth + 1, words=words or name in WORDS)
        return total


def _is_tokens(body: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list is a text that has been cut into tokens by the caller."""
    return len(body) > 0 and type(body[0]) is int and all(type(each) is int for each in body)


def _is_media(found: dict[Any, Any], kind: str, key: str, value: str) -> bool:
    """Whether a text under a key of MEDIA_KEYS is media: a file's address or its bytes, in a table that is of media."""
    mime = found.get("media_type") or found.get("mimeType") or found.get("mime_type")
    if mime is not None:
        return not str(mime).startswith("text/") or value.startswith(ADDRESSES)
    return kind in MEDIA_TYPES or key in MEDIA_TABLES or value.startswith(ADDRESSES)


ADDRESSES: Final = ("data:", "http://", "https://", "gs://")


def body_tokens(body: Any, counted: Callable[[str], int] = text_bytes) -> int:
    """A bound of the tokens of a request's body (see `Size`)."""
    return Size(body, counted).tokens
