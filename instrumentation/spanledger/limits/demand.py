"""What a call of an SDK demands: the most that it may cost, and how large it is."""

from __future__ import annotations

from typing import Final, NamedTuple

from spanledger.limits.estimate import (
    IMAGE_OUTPUT_TOKENS,
    PLAIN,
    asks,
    batched,
    choices,
    largest_answer,
    worst_picousd,
)
from spanledger.limits.plan import Question
from spanledger.limits.sizes import Size
from spanledger.limits.tokenizer import counter
from spanledger.providers import Request
from spanledger.reading import Json, label
from spanledger.usage import Usage

WORDED: Final = frozenset({"chat", "generate_content", "text_completion"})
"""Operations that are answered with text: what is no text has no tokens to be capped."""


class Demand(NamedTuple):
    """What is asked of budgets for a call."""

    question: Question
    estimate: int | None
    """Picodollars; None: nobody knows."""
    read: int
    """Tokens of the prompt at most; of a batch, of its largest request."""
    written: int
    """Tokens of the answers at most, as far as they are to be capped; of a batch, of its largest request."""


def demand(provider: str, asked: Request, body: object, assumed: int, *, files: int = 0, replaceable: bool) -> Demand:
    """What a call demands.

    Args:
        provider: gen_ai.provider.name.
        asked: the request, as accounting reads it.
        body: of the request, parsed.
        assumed: tokens of an answer for which the request sets no maximum.
        files: that go beside the body.
        replaceable: whether another model may be asked.
    """
    if asked.begins and (parts := batched(body)):
        return _batch(provider, asked, parts, assumed)
    model = asked.model or ""
    size = Size(body, media=files)
    answers = choices(body)
    written = answers * (asked.max_tokens or assumed)
    ask = asks(body, model, asked.service_tier, media=size.media > 0)
    if ask is not PLAIN and "image_out" in ask.outputs:
        written = max(written, answers * IMAGE_OUTPUT_TOKENS)
    made = asked.expected
    if made is not None and answers > 1:
        made = Usage(*(number * answers for number in made[:-1]))

    def price(name: str, read: int) -> int | None:
        return worst_picousd(provider, name, read, written, ask, made, asked.size or "", asked.quality or "")

    def sharper() -> int | None:
        count = counter(provider, model)
        return None if count is None else Size(body, count, files).tokens

    elsewhere = asked.begins and not model  # a batch whose requests are in a file
    capped = asked.max_tokens is not None or (asked.operation in WORDED and not elsewhere)
    question = Question(model, price, sharper, replaceable and bool(model))
    return Demand(question, price(model, size.tokens) if model else None, size.tokens, written if capped else 0)


def _batch(provider: str, asked: Request, parts: list[Json], assumed: int) -> Demand:
    """Of a batch that has its requests in it: all of them may cost so much, at the plain rate."""
    costs: list[int | None] = []
    read = written = 0
    for part in parts:
        model = label(part, "model") or asked.model or ""
        size = Size(part)
        answer = largest_answer(part, assumed)
        ask = asks(part, model, None, media=size.media > 0)
        costs.append(worst_picousd(provider, model, size.tokens, answer, ask))
        read, written = max(read, size.tokens), max(written, answer)
    known = [cost for cost in costs if cost is not None]
    return Demand(NO_QUESTION, sum(known) if len(known) == len(costs) else None, read, written)


def _no_price(model: str, read: int) -> int | None:  # noqa: ARG001 - the form of `Question.price`
    return None


NO_QUESTION: Final = Question("", _no_price, lambda: None, replaceable=False)
"""Where nothing may be refined or replaced."""
