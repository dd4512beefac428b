"""Reservations: the amount that a request holds in its budgets until its cost is settled."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from spanledger.limits.matching_budgets import MatchedBudgets


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


class Reservation:
    """The reservation of one request. Every billed response is counted; the first one releases the held amount."""

    __slots__ = ("_limiter", "_matched", "_reservation_ids", "held")

    def __init__(self, limiter: CostCounter, reservation: str, matched: MatchedBudgets, held: int) -> None:
        """`held` in picodollars; `reservation` "": nothing is held."""
        self._limiter, self._matched, self.held = limiter, matched, held
        self._reservation_ids = [reservation] if reservation else []

    def settle(self, cost_picousd: int | None, billed: bool, dedup_key: str) -> None:
        """Settle a response. A billed response without a price counts as the full held amount. `dedup_key`: identifies a
        response that other processes may report too; it counts once."""
        spent = cost_picousd if cost_picousd is not None else self.held if billed else 0
        if dedup_key and spent:
            self._limiter.count(Cost(dedup_key, self._matched, 0, spent, cross_process=True))
            self.count(0)
        else:
            self.count(spent)

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
