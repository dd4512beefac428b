"""What a call may cost at most, before it is made.

Tokens of a text: one a byte of UTF-8, which no byte-level tokenizer exceeds (each token stands for at least one byte).
The cost is that of all input at
the dearest way the model has of charging input (a cache write costs up to twice the rate) and of all output allowed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, cast

from spanledger.pricing import quote

MESSAGE_TOKENS: Final = 16
"""Of a message's role and separators, generously (OpenAI's chat format takes 3 or 4)."""
MEDIA_TOKENS: Final = 6000
"""Of an image, a sound or a file in a request: above what providers count for an image of the largest size they take
(OpenAI 5,000 tokens, Anthropic some 4,800). Of longer sounds and documents it is too little."""
MEDIA_KEYS: Final = frozenset({"data", "url", "file_data", "image_url", "inline_data", "inlineData", "b64_json"})
"""Keys whose long texts are media, not words."""
INPUT_METERS: Final = ("input", "cache_write", "cache_write_1h")
"""Ways in which a token of input may be charged; what is read from a cache is never dearer."""


def worst_picousd(provider: str, model: str, input_tokens: int, output_tokens: int) -> int | None:
    """The most that a call may cost, in picodollars; None where the model has no price.

    Args:
        provider: gen_ai.provider.name.
        model: as it is asked for.
        input_tokens: all of the prompt.
        output_tokens: all that may be answered, reasoning included.
    """
    return _worst(provider, model, stepped(input_tokens), stepped(output_tokens))


def stepped(tokens: int) -> int:
    """The next number up of which there are 32 in each doubling, at most a thirty-second more: estimates of requests of
    about the same size are one estimate."""
    step = 1 << max(0, tokens.bit_length() - 6)
    return -(-tokens // step) * step


@lru_cache(maxsize=4096)
def _worst(provider: str, model: str, input_tokens: int, output_tokens: int) -> int | None:
    totals = [
        quote(provider, model, {"input": input_tokens, "output": output_tokens, **({meter: input_tokens} if meter != "input" else {})}).total_picousd
        for meter in INPUT_METERS
    ]  # fmt: skip
    return max((total for total in totals if total is not None), default=None)


def text_tokens(*texts: str) -> int:
    """A bound of the tokens of messages' texts, by their bytes."""
    return sum(len(text.encode("utf-8", "surrogatepass")) + MESSAGE_TOKENS for text in texts)


def body_tokens(body: object, key: str = "") -> int:
    """A bound of the tokens of a request's body: its texts (names and schemas of tools included) by their bytes, media by
    MEDIA_TOKENS each. What the provider keeps from before (previous_response_id, files by id, a cache by name) is not
    in the body and not counted."""
    if isinstance(body, str):
        media = key in MEDIA_KEYS and (len(body) > 1000 or body.startswith(("data:", "http")))
        return MEDIA_TOKENS if media else len(body.encode("utf-8", "surrogatepass"))
    if isinstance(body, dict):
        found = cast("dict[object, object]", body)
        return MESSAGE_TOKENS + sum(len(str(name)) + body_tokens(value, str(name)) for name, value in found.items())
    if isinstance(body, list | tuple):
        return sum(body_tokens(each, key) for each in cast("list[object]", body))
    return 0 if body is None else len(str(body))
