"""Admission control: before a request is sent, a budget may refuse it or downgrade it to another model.

With `stream_limit.py` the one place where Spanledger stops a call, and only where a budget says so and the application enforces (a file of
budgets with `enforce = true`, or a Redis where they are published). A refused call is a row of its own: outcome error,
error_type BudgetExceeded, no attempts, no cost. A downgraded one says on its row which model was asked for, and why.
"""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.context import Context

from spanledger.capture.call import Call
from spanledger.capture.stream_limit import BYTES_PER_TOKEN, StreamLimit
from spanledger.context.baggage import budget_dimensions
from spanledger.limits.api import limiter_from_settings
from spanledger.limits.errors import BudgetExceeded
from spanledger.limits.estimate.request_estimate import RequestEstimate, estimate_request
from spanledger.limits.limiter import STORE_UNAVAILABLE, Limiter
from spanledger.limits.policy import Dimensions
from spanledger.limits.reservations import Decision, Reservation
from spanledger.providers import UNKNOWN_OPERATION, Request
from spanledger.runtime.guard import quietly
from spanledger.runtime.untrusted_json import parse_json
from spanledger.semconv import attributes as a


def enforcing_limiter() -> Limiter | None:
    """The limiter that checks every call; None where limits are not enforced."""
    limiter = limiter_from_settings()
    return limiter if limiter is not None and limiter.policy.enforce else None


def admit(call: Call, body: object, replace_model: Callable[[str], object] | None = None, files: int = 0) -> None:
    """Admit a call, and reserve its maximum cost until it ends.

    Args:
        call: just begun.
        body: what is asked, parsed or as JSON; its texts are counted, not kept.
        replace_model: puts another model into the request; None: the model cannot be replaced.
        files: that go beside the body.

    Raises:
        BudgetExceeded: a budget refuses it. Any other failure in here admits the call unchanged.
    """
    limiter = enforcing_limiter()
    if limiter is None:
        return
    if not _is_billable(call):
        _charge_on_end(limiter, call)  # it asks for what was asked for earlier, or is of no known kind
        return
    refused = None
    with quietly("checking limits"):
        parsed = parse_json(body) if isinstance(body, str | bytes) else body
        refused = _check_budgets(limiter, call, parsed, replace_model, files)
    if refused is not None:
        call.refuse(refused)
        raise refused


def _is_billable(call: Call) -> bool:
    """Whether this request causes anything to be billed, now or later."""
    request = call.request
    return (
        call.is_billable or request.starts_job or (request.operation == UNKNOWN_OPERATION and request.model is not None)
    )


def _check_budgets(
    limiter: Limiter, call: Call, body: object, replace_model: Callable[[str], object] | None, files: int
) -> BudgetExceeded | None:
    assumed = limiter.policy.assumed_output_tokens
    request_estimate = estimate_request(
        call.provider_name, call.request, body, assumed, files, replace_model is not None
    )
    decision, hold = limiter.authorize(
        _request_dimensions(call.context),
        request_estimate.max_picousd,
        request_estimate.input_tokens,
        request_estimate.output_tokens,
        request_estimate,
    )
    if not decision.allowed:
        return BudgetExceeded(decision.reason, decision.retry_after_seconds)
    if hold is not None:
        call.on_end = hold.settle
    if decision.warnings:
        call.note(a.BUDGET_WARNINGS, ", ".join(decision.warnings))
    if decision.reason == STORE_UNAVAILABLE:
        call.note(a.BUDGET_WARNINGS, "not enforced: the store did not answer")
    if decision.model and replace_model is not None:
        replace_model(decision.model)
        call.downgrade(decision.model, decision.reason)
    if call.request.stream:
        with quietly("limiting a stream"):
            _limit_stream(limiter, call, hold, request_estimate, decision.model or request_estimate.model)
    return None


def _limit_stream(
    limiter: Limiter, call: Call, hold: Reservation | None, request_estimate: RequestEstimate, model: str
) -> None:
    """Let the stream be closed at its limits: of its budgets, where it sets no maximum itself, and of time."""
    rule = limiter.policy.rule(_request_dimensions(call.context).value("feature"))
    if rule.critical:
        return
    seconds = rule.max_stream_seconds or limiter.policy.max_stream_seconds
    grows = hold is not None and call.request.max_tokens is None
    if grows or seconds is not None:
        call.limit = StreamLimit(
            hold if grows else None,
            -(-request_estimate.input_tokens // BYTES_PER_TOKEN),
            request_estimate.output_tokens,
            request_estimate.max_cost(model, 0),
            seconds,
        )


def _request_dimensions(context: Context | None) -> Dimensions:
    return Dimensions.of_attributes(budget_dimensions(context))


def _charge_on_end(limiter: Limiter, call: Call) -> None:
    with quietly("counting a cost"):
        hold = limiter.zero_reservation(_request_dimensions(call.context))
        if hold is not None:
            call.on_end = hold.settle


def charge(call: Call) -> None:
    """Charge a call to its budgets without admission: a turn of an open session, a manually recorded call."""
    limiter = enforcing_limiter()
    if limiter is not None:
        _charge_on_end(limiter, call)


# --- sessions: a socket that stays open ------------------------------------------------------------------------


def admit_session(begin: Callable[[Request], Call], model: str) -> None:
    """Admit a session if its budgets have anything left.

    Args:
        begin: makes the call that records a refusal.
        model: of the session; "" where it is not known.

    Raises:
        BudgetExceeded: a budget refuses it.
    """
    limiter = enforcing_limiter()
    if limiter is None:
        return
    refused = None
    with quietly("checking limits"):
        decision = _session_decision(limiter)
        if not decision.allowed:
            refused = BudgetExceeded(decision.reason, decision.retry_after_seconds)
            begin(Request("chat", model or None)).refuse(refused)
    if refused is not None:
        raise refused


def _session_decision(limiter: Limiter) -> Decision:
    """Check for remaining budget: reserves one picodollar and releases it at once."""
    decision, hold = limiter.authorize(_request_dimensions(None), 0)
    if hold is not None:
        hold.count(0)
    return decision
