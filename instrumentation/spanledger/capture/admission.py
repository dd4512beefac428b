"""Budgets at the door that records the call: before anything is sent, it may be refused, or asked of another model.

The one place where Spanledger stops a call, and only where a budget says so and the application enforces (a file of
budgets with `enforce = true`, or a Redis where they are published). A refused call is a row of its own: outcome error,
error_type BudgetExceeded, no attempts, no cost. A downgraded one says on its row which model was asked for, and why.
"""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.context import Context

from spanledger.capture.call import Call
from spanledger.context.baggage import dimensions
from spanledger.limits.api import configured
from spanledger.limits.errors import BudgetExceeded
from spanledger.limits.estimate.request_estimate import demand
from spanledger.limits.limiter import UNANSWERED, Decision, Limiter
from spanledger.limits.policy import Who
from spanledger.providers import UNKNOWN, Request
from spanledger.runtime.guard import quietly
from spanledger.runtime.untrusted_json import document
from spanledger.semconv import attributes as a


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
    assumed = limiter.policy.assumed_output_tokens
    wanted = demand(call.provider_name, call.request, body, assumed, files, ask_instead is not None)
    found, hold = limiter.ask(_who(call.context), wanted.estimate, wanted.read, wanted.written, wanted)
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
