"""What a call may cost at most, before it is made.

Tokens of a text: one a byte of UTF-8, which no byte-level tokenizer exceeds (each token stands for at least one byte);
where that would be too much, as a tokenizer counts them (tokenizer.py). The cost is that of all input at the dearest way
the model has of charging input (a cache write costs up to twice the rate) and of all output allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, cast

from spanledger.pricing import quote
from spanledger.reading import mapping
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
INPUT_METERS: Final = ("input", "cache_write", "cache_write_1h")
"""Ways in which a token of input may be charged; what is read from a cache is never dearer."""


def worst_picousd(
    provider: str, model: str, input_tokens: int, output_tokens: int, tier: str = "", expected: Usage | None = None
) -> int | None:
    """The most that a call may cost, in picodollars; None where the model has no price.

    Args:
        provider: gen_ai.provider.name.
        model: as it is asked for.
        input_tokens: all of the prompt.
        output_tokens: all that may be answered, reasoning included.
        tier: the service tier that is asked for, as the provider spells it.
        expected: what the request itself says is sold (images, seconds, characters).
    """
    worst = _worst(provider, model, stepped(input_tokens), output_tokens, tier)
    if expected is None:
        return worst
    made = quote(provider, model, expected, tier=tier).total_picousd
    return worst if made is None else made if worst is None else max(worst, made)


def stepped(tokens: int) -> int:
    """The next number up of which there are 32 in each doubling, at most a thirty-second more: estimates of requests of
    about the same size are one estimate."""
    step = 1 << max(0, tokens.bit_length() - 6)
    return -(-tokens // step) * step


@lru_cache(maxsize=4096)
def _worst(provider: str, model: str, input_tokens: int, output_tokens: int, tier: str) -> int | None:
    totals: list[int] = []
    for meter in INPUT_METERS:
        usage = {"input": input_tokens, "output": output_tokens}
        if meter != "input":
            usage[meter] = input_tokens
        total = quote(provider, model, usage, tier=tier).total_picousd
        if total is not None:
            totals.append(total)
    return max(totals, default=None)


def choices(body: Any) -> int:
    """How many answers a request asks for (OpenAI's `n`, Google's `candidateCount`)."""
    if not isinstance(body, dict):
        return 1
    found = cast("dict[str, Any]", body)
    asked = found.get("n")
    if asked is None and "generationConfig" in found:
        asked = mapping(found, "generationConfig").get("candidateCount")
    return asked if type(asked) is int and asked > 1 else 1


def text_tokens(*texts: str) -> int:
    """A bound of the tokens of messages' texts, by their bytes."""
    return sum(text_bytes(text) + MESSAGE_TOKENS for text in texts)


def text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def body_tokens(body: Any, key: str = "", counted: Callable[[str], int] = text_bytes) -> int:
    """A bound of the tokens of a request's body: its texts (names and schemas of tools included) by `counted`, media by
    MEDIA_TOKENS each. What the provider keeps from before (previous_response_id, files by id, a cache by name) is not
    in the body and not counted."""
    if isinstance(body, dict):
        total = MESSAGE_TOKENS
        found = cast("dict[Any, Any]", body)
        for name, value in found.items():
            total += len(name) if type(name) is str else len(str(name))
            if type(value) is str and name not in MEDIA_KEYS:
                total += counted(value)
            elif type(value) in SCALARS:
                total += NUMBER_TOKENS
            else:
                total += body_tokens(value, name, counted)
        return total
    if isinstance(body, list | tuple):
        total = 0
        for each in cast("list[Any]", body):
            total += body_tokens(each, key, counted)
        return total
    if isinstance(body, str):
        if key in MEDIA_KEYS and (len(body) > 1000 or body.startswith(("data:", "http"))):
            return MEDIA_TOKENS
        return counted(body)
    return NUMBER_TOKENS
