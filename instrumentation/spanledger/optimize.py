"""Opt-in helpers for smaller bills: shorter prompts, and a cache of answers whose worth is measured. Nothing happens unless called.

`truncate` shortens a list of messages, `record_cache_hit` writes a row for an answer that was not bought, and `SemanticCache` finds
answers to questions that mean the same, by an embedding function of yours. No text is kept by Spanledger: the cache is in your
process, and rows have counts only.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from threading import Lock
from typing import Any, Final, Generic, TypeVar, cast

from opentelemetry.trace import SpanKind

from spanledger import bootstrap
from spanledger.limits.estimate.token_bound import text_tokens
from spanledger.pricing import quote
from spanledger.pricing.calculator import usage_from_totals
from spanledger.runtime.guard import log, quietly
from spanledger.runtime.span_attributes import set_attributes_fast, stash_usage
from spanledger.semconv import attributes as a

Message = TypeVar("Message", bound=Mapping[str, Any])
Answer = TypeVar("Answer")

INSTRUCTIONS: Final = ("system", "developer")
"""Roles of messages that are never left out."""
PER_MESSAGE: Final = 4
"""Tokens around the text of a message, at the most (OpenAI's cookbook: 3, and a name)."""


def truncate(
    messages: Sequence[Message], budget: int, *, count: Callable[[str], int] | None = None, keep_last: int = 1
) -> list[Message]:
    """The messages that fit into a budget: instructions, and the newest of the others, in their order.

    A tool's result is kept only with the call that asked for it, as providers refuse one without the other. What is kept is not
    changed: the messages are the same objects.

    Args:
        messages: with "role" and "content" (a string, or blocks with "text"), as OpenAI and Anthropic take them.
        budget: tokens of prompt.
        count: tokens of a text, by your model's tokenizer; default: an upper bound that needs none.
        keep_last: how many of the newest messages are kept whatever they cost, so that the question itself is never left out.

    Returns:
        A new list; all messages if they fit. Instructions and the last messages alone may exceed the budget.
    """
    measure = count or text_tokens
    sizes = [PER_MESSAGE + sum(measure(text) for text in _texts(message)) for message in messages]
    pinned = {n for n, message in enumerate(messages) if message.get("role") in INSTRUCTIONS}
    others = [n for n in range(len(messages)) if n not in pinned]
    chosen = pinned | set(others[max(0, len(others) - max(0, keep_last)) :])
    left = budget - sum(sizes[n] for n in chosen)
    for n in reversed([n for n in others if n not in chosen]):
        left -= sizes[n]
        if left < 0:
            break
        chosen.add(n)
    first = min((n for n in chosen if n not in pinned), default=0)
    while first in chosen and _answers_a_call(messages[first]) and len(chosen - pinned) > 1:
        chosen.discard(first)
        first = min(chosen - pinned)
    return [message for n, message in enumerate(messages) if n in chosen]


def _texts(message: Mapping[str, Any]) -> list[str]:
    """All text of a message: its content, names and arguments of calls."""
    texts: list[str] = []
    waiting: list[object] = [value for key, value in message.items() if key != "role"]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, Mapping):
            waiting += cast("Mapping[object, object]", value).values()
        elif isinstance(value, Sequence):
            waiting += cast("Sequence[object]", value)
    return texts


def _answers_a_call(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    blocks = cast("Sequence[object]", content) if isinstance(content, Sequence) and not isinstance(content, str) else ()
    return message.get("role") == "tool" or any(
        isinstance(block, Mapping) and cast("Mapping[object, object]", block).get("type") == "tool_result"
        for block in blocks
    )


def record_cache_hit(*, provider: str, model: str, usage: Mapping[str, int], operation: str = "chat") -> bool:
    """Record an answer that a cache of yours gave: a row at no cost, with what it would have cost beside it (`avoided_cost_usd`).

    Args:
        provider: `gen_ai.provider.name` of the call that was not made.
        model: its model.
        usage: its inclusive totals in tokens ({"input": 10, "output": 3}), as they were when the answer was bought.
        operation: `gen_ai.operation.name`.

    Returns:
        Whether a row was written. Nothing is raised.
    """
    with quietly("recording a cache hit"):
        if bootstrap.disabled():
            return False
        span = bootstrap.tracer("spanledger.cache").start_span(
            f"{operation} {model}", kind=SpanKind.CLIENT, attributes={a.OPERATION: operation, a.PROVIDER: provider, a.REQUEST_MODEL: model},
        )  # fmt: skip
        facts = {a.RESPONSE_MODEL: model, a.CACHE_HIT: "true", a.USAGE_SOURCE: "cache", a.OUTCOME: "ok", a.ATTEMPTS: 0}
        set_attributes_fast(span, facts)
        stash_usage(span, usage_from_totals(usage))  # for what it has avoided; nothing was used
        span.end()
        return True
    return False


class SemanticCache(Generic[Answer]):
    """Answers by the meaning of their question, in this process. A hit is recorded with what it has avoided.

    The nearest question counts if its cosine similarity is at least `threshold`. Too low a threshold gives a wrong answer, so
    measure before you trust one: `hit_rate` and `avoided_usd` say what it is worth, a sample of your own what it breaks.
    """

    def __init__(self, embed: Callable[[str], Sequence[float]], *, threshold: float = 0.95, size: int = 1000) -> None:
        """
        Args:
            embed: a text's embedding, always of one length; its own cost is a call of its own.
            threshold: the least cosine similarity of a hit, above 0 to 1.
            size: answers that are kept, those used last. A lookup compares with each: some 60 us for 1,536 numbers.

        Raises:
            ValueError: threshold or size is not valid.
        """
        if not 0 < threshold <= 1 or size < 1:
            raise ValueError(f"threshold is above 0 to 1, size at least 1: not {threshold}, {size}")
        self._embed, self._threshold, self._size = embed, threshold, size
        self._entries: OrderedDict[int, tuple[list[float], Answer, dict[str, Any]]] = OrderedDict()
        self._lock = Lock()
        self._next = 0
        self.lookups = 0
        self.hits = 0
        self.avoided_usd = Decimal(0)
        """What the hits would have cost, where a price is known."""

    @property
    def hit_rate(self) -> float:
        """Hits among the lookups; 0 before the first."""
        return self.hits / self.lookups if self.lookups else 0.0

    def get(self, question: str) -> Answer | None:
        """The answer to the nearest question, or None. A hit is recorded as a row at no cost."""
        vector = _normalized(self._embed(question))
        with self._lock:
            self.lookups += 1
            entries = list(self._entries.items())
        similarity, key = max(((_dot(vector, other), key) for key, (other, _, _) in entries), default=(0.0, -1))
        if similarity < self._threshold:
            return None
        _, answer, call = dict(entries)[key]
        with self._lock:
            self.hits += 1
            self.avoided_usd += _price_of(call)
            if key in self._entries:
                self._entries.move_to_end(key)
        record_cache_hit(**call)
        return answer

    def put(self, question: str, answer: Answer, *, provider: str, model: str, usage: Mapping[str, int]) -> None:
        """Keep an answer, with what it took to get it (as for `record_cache_hit`)."""
        vector = _normalized(self._embed(question))
        with self._lock:
            self._entries[self._next] = vector, answer, {"provider": provider, "model": model, "usage": dict(usage)}
            self._next += 1
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)


def _normalized(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(sum(float(x) * float(x) for x in vector))
    if not length or not math.isfinite(length):
        log.warning("an embedding is empty, zero or not finite: it is like no other")
        return [0.0] * len(vector)
    return [float(x) / length for x in vector]


def _dot(one: list[float], other: list[float]) -> float:
    """The cosine of two vectors of length 1; 0 where they are not of one model."""
    return sum(map(float.__mul__, one, other)) if len(one) == len(other) else 0.0


def _price_of(call: Mapping[str, Any]) -> Decimal:
    picousd = quote(call["provider"], call["model"], call["usage"]).total_picousd
    return Decimal(picousd or 0).scaleb(-12)
