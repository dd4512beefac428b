"""Limits at the door that records the call: a call that has no room raises BudgetExceeded before anything is sent.

The one place where Spanledger stops a call, and only where the file of limits says `enforce = true`. A refused call is a
row of its own: outcome error, error_type BudgetExceeded, no attempts, no cost.
"""

from __future__ import annotations

from typing import Final

from spanledger import attributes as a
from spanledger.attributing import dimensions
from spanledger.call import Call
from spanledger.guard import Deliberate, quietly
from spanledger.limits.estimate import body_tokens, worst_picousd
from spanledger.limits.limiter import Limiter, configured
from spanledger.reading import document

DIMENSIONS: Final = {"user": a.USER_ID, "feature": a.FEATURE, "tenant": a.TENANT_ID, "tier": a.CUSTOMER_TIER}


class BudgetExceeded(Deliberate):
    """A limit has no room for this call, or the call is larger than is allowed. Nothing was sent.

    Attributes:
        reason: which limit, in words.
        retry_after_seconds: until its window ends; 0 where waiting does not help.
    """

    def __init__(self, reason: str, retry_after_seconds: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


def admit(call: Call, body: object) -> None:
    """Let a call pass and hold what it may cost until it ends.

    Args:
        call: just begun.
        body: what is asked, parsed or as JSON; its texts are counted, not kept.

    Raises:
        BudgetExceeded: a limit that enforces refuses it. Whatever goes wrong in here lets it pass.
    """
    refused = None
    with quietly("checking limits"):
        limiter = configured()
        if limiter is None or not limiter.policy.enforce:
            return
        refused = _asked(limiter, call, document(body) if isinstance(body, str | bytes) else body)
    if refused is not None:
        call.refuse(refused)
        raise refused


def _asked(limiter: Limiter, call: Call, body: object) -> BudgetExceeded | None:
    asked = call.request
    if not call.sells or asked.model is None:
        return None
    who = dimensions(call.context)
    request = {dimension: who.get(name) for dimension, name in DIMENSIONS.items()}
    read = body_tokens(body)
    written = asked.max_tokens or limiter.policy.assumed_output_tokens
    estimate = worst_picousd(call.provider_name, asked.model, read, written)
    found = limiter.check(request, estimate, read, asked.max_tokens or 0)
    if not found.allowed:
        return BudgetExceeded(found.reason, found.retry_after_seconds)
    if found.warnings:
        call.notes = {a.LIMIT_WARNINGS: ", ".join(found.warnings)}
    if found.reservation:
        call.on_end = _Held(limiter, found.reservation, estimate or 0)
    return None


class _Held:
    """What a call holds until it ends. Each response that it turns out to bill is counted."""

    def __init__(self, limiter: Limiter, reservation: str, estimate: int) -> None:
        self._limiter = limiter
        self._reservation = reservation
        self._estimate = estimate
        self._accounts = limiter.take(reservation)

    def __call__(self, cost: int | None, sold: bool) -> None:
        """`cost` in picodollars; None of what was sold is taken for all that it was estimated to cost at most."""
        spent = cost if cost is not None else self._estimate if sold else 0
        self._limiter.count(self._reservation, self._accounts, spent)
