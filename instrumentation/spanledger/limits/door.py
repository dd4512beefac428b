"""Budgets at the door that records the call: before anything is sent, it may be refused, or asked of another model.

The one place where Spanledger stops a call, and only where a budget says so and the application enforces (a file of
budgets with `enforce = true`, or a Redis where they are published). A refused call is a row of its own: outcome error,
error_type BudgetExceeded, no attempts, no cost. A downgraded one says on its row which model was asked for, and why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from opentelemetry.context import Context

from spanledger import attributes as a
from spanledger.attributing import dimensions
from spanledger.call import Call
from spanledger.guard import Deliberate, quietly
from spanledger.limits.asking import configured
from spanledger.limits.estimate import (
    IMAGE_OUTPUT_TOKENS,
    PLAIN,
    Size,
    asks,
    batched,
    choices,
    largest_answer,
    worst_picousd,
)
from spanledger.limits.limiter import UNANSWERED, Decision, Limiter
from spanledger.limits.plan import Question
from spanledger.limits.policy import Who
from spanledger.limits.tokenizer import counter
from spanledger.providers import UNKNOWN, Request
from spanledger.reading import Json, document, label
from spanledger.usage import Usage

WORDED: Final = frozenset({"chat", "generate_content", "text_completion"})
"""Operations that are answered with text."""


class BudgetExceeded(Deliberate):
    """A budget has no room for this call, or the call is larger than is allowed. Nothing was sent.

    Attributes:
        reason: which budget, in words.
        retry_after_seconds: until its window ends; 0 where waiting does not help.
    """

    def __init__(self, reason: str, retry_after_seconds: int) -> None:
        super().__init__(reason, retry_after_seconds)  # all of it: it may be pickled on its way from a worker
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return self.reason


def enforcing() -> Limiter | None:
    """The limiter that every call asks; None where none does."""
    limiter = configured()
    return limiter if limiter is not None and limiter.policy.enforce else None


def admit(call: Call, body: object, ask_instead: Callable[[str], object] | None = None, files: int = 0) -> None:
    """Let a call pass and hold what it may cost until it ends.

    Args:
        call: just begun.
        body: what is asked, parsed or as JSON; its texts are counted, not kept.
        ask_instead: puts another model into the request; None: the model cannot be replaced.
        files: that go beside the body.

    Raises:
        BudgetExceeded: a budget refuses it. Whatever goes wrong in here lets it pass as it is.
    """
    limiter = enforcing()
    if limiter is None:
        return
    if not _begins(call):
        _count_at_its_end(limiter, call)  # it asks for what was asked for earlier, or is of no known kind
        return
    refused = None
    with quietly("checking limits"):
        parsed = document(body) if isinstance(body, str | bytes) else body
        refused = _asked(limiter, call, parsed, ask_instead, files)
    if refused is not None:
        call.refuse(refused)
        raise refused


def _begins(call: Call) -> bool:
    """Whether anything is sold because of this request, now or later."""
    asked = call.request
    return call.sells or asked.begins or (asked.operation == UNKNOWN and asked.model is not None)


def _asked(
    limiter: Limiter, call: Call, body: object, ask_instead: Callable[[str], object] | None, files: int
) -> BudgetExceeded | None:
    question, estimate, read, written = _question(limiter, call, body, files, can_replace=ask_instead is not None)
    says = call.request.max_tokens or call.request.operation in WORDED  # what is no text has no tokens to be capped
    found, hold = limiter.ask(_who(call.context), estimate, read, written if says else 0, question)
    if not found.allowed:
        return BudgetExceeded(found.reason, found.retry_after_seconds)
    if hold is not None:
        call.on_end = hold.ended
    if found.warnings:
        call.note(a.BUDGET_WARNINGS, ", ".join(found.warnings))
    if found.reason == UNANSWERED:
        call.note(a.BUDGET_WARNINGS, "not enforced: the store did not answer")
    if found.model and ask_instead is not None:
        ask_instead(found.model)
        call.downgrade(found.model, found.reason)
    return None


def _question(
    limiter: Limiter, call: Call, body: object, files: int, *, can_replace: bool
) -> tuple[Question, int | None, int, int]:
    """What a call asks for; the most that it may cost; the tokens of its prompt and of its answers, at most."""
    asked, provider = call.request, call.provider_name
    if asked.begins and (parts := batched(body)):
        return _batch(limiter, call, parts)
    model = asked.model or ""
    size = Size(body, media=files)
    answers = choices(body)
    written = answers * (asked.max_tokens or limiter.policy.assumed_output_tokens)
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

    question = Question(model, price, sharper, can_replace and bool(model))
    return question, price(model, size.tokens) if model else None, size.tokens, written


def _batch(limiter: Limiter, call: Call, parts: list[Json]) -> tuple[Question, int | None, int, int]:
    """As `_question`, of a batch that has its requests in it: what all of them may cost, and the largest of them."""
    assumed = limiter.policy.assumed_output_tokens
    costs: list[int | None] = []
    read = written = 0
    for part in parts:
        model, size, answer = (
            label(part, "model") or call.request.model or "",
            Size(part),
            largest_answer(part, assumed),
        )
        costs.append(
            worst_picousd(call.provider_name, model, size.tokens, answer, asks(part, model, None, media=size.media > 0))
        )
        read, written = max(read, size.tokens), max(written, answer)
    known = [cost for cost in costs if cost is not None]
    return (
        Question("", _no_price, lambda: None, replaceable=False),
        sum(known) if len(known) == len(costs) else None,
        read,
        written,
    )


def _no_price(_model: str, _read: int) -> int | None:
    return None


def _who(context: Context | None) -> Who:
    said = dimensions(context).get
    return Who(said(a.TENANT_ID), said(a.CUSTOMER_TIER), said(a.FEATURE), said(a.USER_ID))


def _count_at_its_end(limiter: Limiter, call: Call) -> None:
    with quietly("counting a cost"):
        hold = limiter.hold(_who(call.context))
        if hold is not None:
            call.on_end = hold.ended


def count(call: Call) -> None:
    """Have the cost of a call counted that nobody asked for: a turn of an open session, a row made by hand."""
    limiter = enforcing()
    if limiter is not None:
        _count_at_its_end(limiter, call)


# --- sessions: a socket that stays open ------------------------------------------------------------------------


def admit_session(begin: Callable[[Request], Call], model: str) -> None:
    """Let a session be opened, where its budgets have any room at all.

    Args:
        begin: makes the call that records a refusal.
        model: of the session; "" where it is not known.

    Raises:
        BudgetExceeded: a budget refuses it.
    """
    limiter = enforcing()
    if limiter is None:
        return
    refused = None
    with quietly("checking limits"):
        found = _any_room(limiter)
        if not found.allowed:
            refused = BudgetExceeded(found.reason, found.retry_after_seconds)
            begin(Request("chat", model or None)).refuse(refused)
    if refused is not None:
        raise refused


def _any_room(limiter: Limiter) -> Decision:
    """Whether anything more may be spent: a picodollar, which is held only for as long as that takes."""
    found, hold = limiter.ask(_who(None), 0)
    if hold is not None:
        hold.count(0)
    return found
