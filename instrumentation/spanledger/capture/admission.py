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


def admit(call: Call, body: object, replace_model: Callable[[str], object] | None = None, files: int = 0) -> None:
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
        refused = _asked(limiter, call, parsed, replace_model, files)
    if refused is not None:
        call.refuse(refused)
        raise refused


def _begins(call: Call) -> bool:
    """Whether anything is sold because of this request, now or later."""
    request = call.request
    return call.sells or request.begins or (request.operation == UNKNOWN and request.model is not None)


def _asked(
    limiter: Limiter, call: Call, body: object, replace_model: Callable[[str], object] | None, files: int
) -> BudgetExceeded | None:
    assumed = limiter.policy.assumed_output_tokens
    request_estimate = demand(call.provider_name, call.request, body, assumed, files, replace_model is not None)
    decision, hold = limiter.ask(_who(call.context), request_estimate.estimate, request_estimate.read, request_estimate.written, request_estimate)
    if not decision.allowed:
        return BudgetExceeded(decision.reason, decision.retry_after_seconds)
    if hold is not None:
        call.on_end = hold.ended
    if decision.warnings:
        call.note(a.BUDGET_WARNINGS, ", ".join(decision.warnings))
    if decision.reason == UNANSWERED:
        call.note(a.BUDGET_WARNINGS, "not enforced: the store did not answer")
    if decision.model and replace_model is not None:
        replace_model(decision.model)
        call.downgrade(decision.model, decision.reason)
    return None


def _who(context: Context | None) -> Who:
    get_dimension = dimensions(context).get
    return Who(get_dimension(a.TENANT_ID), get_dimension(a.CUSTOMER_TIER), get_dimension(a.FEATURE), get_dimension(a.USER_ID))


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
        decision = _any_room(limiter)
        if not decision.allowed:
            refused = BudgetExceeded(decision.reason, decision.retry_after_seconds)
            begin(Request("chat", model or None)).refuse(refused)
    if refused is not None:
        raise refused


def _any_room(limiter: Limiter) -> Decision:
    """Whether anything more may be spent: a picodollar, which is held only for as long as that takes."""
    decision, hold = limiter.ask(_who(None), 0)
    if hold is not None:
        hold.count(0)
    return decision
