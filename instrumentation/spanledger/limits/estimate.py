"""What a call may cost at most, before it is made.

Tokens of a text: tiktoken where it is installed and knows the model without asking the network; else one token a byte of
UTF-8, which no byte-level tokenizer exceeds (each token stands for at least one byte). The cost is that of all input at
the dearest way the model has of charging input (a cache write costs up to twice the rate) and of all output allowed.
"""

from __future__ import annotations

from typing import Final

from spanledger.pricing import quote

MESSAGE_TOKENS: Final = 16
"""Of a message's role and separators, generously (OpenAI's chat format takes 3 or 4)."""
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
    totals = [
        quote(provider, model, {"input": input_tokens, "output": output_tokens, **({meter: input_tokens} if meter != "input" else {})}).total_picousd
        for meter in INPUT_METERS
    ]  # fmt: skip
    return max((total for total in totals if total is not None), default=None)


def text_tokens(*texts: str) -> int:
    """A bound of the tokens of messages' texts, by their bytes."""
    return sum(len(text.encode("utf-8", "surrogatepass")) + MESSAGE_TOKENS for text in texts)
