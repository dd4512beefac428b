"""Decisions and reservations: whether a request is admitted, and the amount that it holds in its budgets until its cost is settled."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from spanledger.limits.matching_budgets import MatchedBudgets


class Decision(NamedTuple):
    """Whether a request is admitted, and by what."""

    allowed: bool
    reason: str = ""
    """Why the request is refused or downgraded; or `limiter.STORE_UNAVAILABLE` if it was allowed without the store."""
    retry_after_seconds: int = 0
    """Seconds until the window of the exhausted budget ends; 0 if waiting does not help."""
    reservation: str = ""
    """Id to pass to `settle`; "" if no cost has to be counted."""
    warnings: tuple[str, ...] = ()
    """Budgets that have crossed a threshold, e.g. ("everything 90%",)."""
    model: str = ""
    """The replacement model; "": the requested one."""

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "warnings": list(self.warnings)}


class Cost(NamedTuple):
    """The cost of one response, for settlement in the store."""

    reservation: str
    """Idempotency key: a cost that is settled twice counts once."""
    matched: MatchedBudgets
    held: int
    spent: int
    cross_process: bool = False
    """Whether other processes may report the same cost."""


class CostCounter(Protocol):
    """Receives costs for settlement; implemented by the limiter."""

    def count(self, cost: Cost) -> None: ...
    def count_now(self, cost: Cost) -> bool: ...
    def new_reservation_id(self) -> str: ...
    def reserve_more(self, reservation: str, matched: MatchedBudgets, amount: int) -> Decision: ...


class Reservation:
    """The reservation of one request. Every billed response is counted; the first one releases the held amounts."""

    __slots__ = ("_further", "_is_settled", "_limiter", "_matched", "_reservation_ids", "held")

    def __init__(self, limiter: CostCounter, reservation: str, matched: MatchedBudgets, held: int) -> None:
        """`held` in picodollars; `reservation` "": nothing is held."""
        self._limiter, self._matched, self.held = limiter, matched, held
        self._reservation_ids = [reservation] if reservation else []
        self._further: list[tuple[str, int]] = []
        """(reservation, picodollars) that were reserved later."""
        self._is_settled = False

    def extend(self, amount_picousd: int) -> Decision:
        """Reserve more for a call that is not over; of a refusal, the decision has the reason. `amount_picousd`: 1 or more."""
        if self._is_settled:
            return Decision(True)
        reservation = self._limiter.new_reservation_id()
        decision = self._limiter.reserve_more(reservation, self._matched, amount_picousd)
        if not decision.allowed:
            self._limiter.count(
                Cost(reservation, self._matched, amount_picousd, 0)
            )  # it may be held in spite of an error
            return decision
        self._further.append((reservation, amount_picousd))
        if self._is_settled:
            self._release_further()
        return decision

    def _release_further(self) -> None:
        while self._further:
            with suppress(IndexError):  # another thread has taken it
                reservation, amount = self._further.pop()
                self._limiter.count(Cost(reservation, self._matched, amount, 0))

    def settle(self, cost_picousd: int | None, billed: bool, dedup_key: str) -> None:
        """Settle a response. A billed response without a price counts as the full held amount. `dedup_key`: identifies a
        response that other processes may report too; it counts once."""
        self._is_settled = True
        held = self.held + sum(amount for _, amount in self._further)
        spent = cost_picousd if cost_picousd is not None else held if billed else 0
        if dedup_key and spent:
            self._limiter.count(Cost(dedup_key, self._matched, 0, spent, cross_process=True))
            self.count(0)
        else:
            self.count(spent)
        self._release_further()  # after the cost is counted: at no moment does the budget look emptier than it is

    def count(self, spent_picousd: int) -> None:
        """Count a cost: immediately in this process, in the background in a remote store."""
        cost = self._cost(spent_picousd)
        if cost.held or cost.spent:
            self._limiter.count(cost)

    def count_now(self, spent_picousd: int) -> bool:
        """Count a cost synchronously. Returns whether the store has it; if not, it is retried in the background."""
        return self._limiter.count_now(self._cost(spent_picousd))

    def _cost(self, spent_picousd: int) -> Cost:
        try:
            return Cost(self._reservation_ids.pop(), self._matched, self.held, spent_picousd)
        except IndexError:  # one more response to the same request
            return Cost(self._limiter.new_reservation_id(), self._matched, 0, spent_picousd)
