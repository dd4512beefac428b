"""What a call of an SDK demands: the most that it may cost, and how large it is."""

from __future__ import annotations

from typing import Final

from spanledger.limits.estimate.token_bound import Size
from spanledger.limits.estimate.tokenizer import counter
from spanledger.limits.estimate.worst_case import (
    IMAGE_OUTPUT_TOKENS,
    asks,
    batched,
    choices,
    largest_answer,
    worst_picousd,
)
from spanledger.providers import Request
from spanledger.runtime.untrusted_json import Json, label
from spanledger.semconv.usage import Usage

WORDED: Final = frozenset({"chat", "generate_content", "text_completion"})
"""Operations that are answered with text: what is no text has no tokens to be capped."""


class Demand:
    """Of one request: what it may cost at most, how large it is, and what it would be with another model or a tokenizer."""

    __slots__ = ("_ask", "_asked", "_body", "_files", "_made", "_most", "_provider", "estimate", "model", "read", "replaceable", "written")  # fmt: skip

    def __init__(
        self, provider: str, request: Request, body: object, assumed: int, files: int = 0, replaceable: bool = True
    ) -> None:
        """
        Args:
            provider: gen_ai.provider.name.
            asked: the request, as accounting reads it.
            body: of the request, parsed.
            assumed: tokens of an answer for which the request sets no maximum.
            files: that go beside the body.
            replaceable: whether another model may be asked.
        """
        self._provider, self._asked, self._body, self._files = provider, request, body, files
        self.model = model = request.model or ""
        self.replaceable = replaceable and request.model is not None
        size = Size(body, media=files)
        self.read = size.tokens
        """Tokens of the prompt at most."""
        answers = choices(body)
        most = answers * (request.max_tokens or assumed)
        self._ask = ask = asks(body, model, request.service_tier, media=size.media > 0)
        if "image_out" in ask.outputs:
            most = max(most, answers * IMAGE_OUTPUT_TOKENS)
        expected_usage = request.expected
        if expected_usage is not None and answers > 1:
            expected_usage = Usage(*(number * answers for number in expected_usage[:-1]))
        self._made, self._most = expected_usage, most
        elsewhere = request.begins and not model  # a batch whose requests are in a file
        self.written = most if request.max_tokens is not None or (request.operation in WORDED and not elsewhere) else 0
        """Tokens of the answers at most, as far as they are to be capped."""
        self.estimate = self.price(model, size.tokens) if model else None
        """Picodollars at most; None: nobody knows."""

    def price(self, model: str, read: int) -> int | None:
        """What it costs at most at a model, with so many tokens of prompt."""
        request = self._asked
        return worst_picousd(
            self._provider, model, read, self._most, self._ask, self._made, request.size or "", request.quality or ""
        )

    def sharper(self) -> int | None:
        """Tokens of the prompt as a tokenizer counts them."""
        count = counter(self._provider, self.model)
        return None if count is None else Size(self._body, count, self._files).tokens


class BatchDemand:
    """Of a batch that has its requests in it: what all of them may cost, at the plain rate; how large the largest is."""

    __slots__ = ("estimate", "read", "written")

    model = ""
    replaceable = False

    def __init__(self, provider: str, request: Request, parts: list[Json], assumed: int) -> None:
        """Arguments as of `Demand`; `parts`: the requests."""
        costs: list[int | None] = []
        self.read = self.written = 0
        for part in parts:
            model = label(part, "model") or request.model or ""
            size = Size(part)
            answer = largest_answer(part, assumed)
            ask = asks(part, model, None, media=size.media > 0)
            costs.append(worst_picousd(provider, model, size.tokens, answer, ask))
            self.read, self.written = max(self.read, size.tokens), max(self.written, answer)
        known_costs = [cost for cost in costs if cost is not None]
        self.estimate = sum(known_costs) if len(known_costs) == len(costs) else None

    def price(self, model: str, read: int) -> int | None:  # noqa: ARG002 - no other model is asked
        return None

    def sharper(self) -> int | None:
        return None


def demand(
    provider: str, request: Request, body: object, assumed: int, files: int = 0, replaceable: bool = True
) -> Demand | BatchDemand:
    """What a call demands; arguments as of `Demand`."""
    if request.batch and (parts := batched(body)):
        return BatchDemand(provider, request, parts, assumed)
    return Demand(provider, request, body, assumed, files, replaceable)
