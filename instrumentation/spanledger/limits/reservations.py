"""What a request holds of its budgets until its cost is known."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from spanledger.limits.matching_budgets import Plan


class Cost(NamedTuple):
    """What a response has cost."""

    reservation: str
    """Told twice, it counts once."""
    plan: Plan
    held: int
    spent: int
    cross_process: bool = False
    """Whether other processes may tell of it too."""


class Counting(Protocol):
    """Who counts costs: the limiter."""

    def count(self, cost: Cost) -> None: ...
    def count_now(self, cost: Cost) -> bool: ...
    def another(self) -> str: ...


class Hold:
    """What one request holds. Each response that it turns out to bill is counted; the first one frees what was held."""

    __slots__ = ("_limiter", "_names", "_plan", "held")

    def __init__(self, limiter: Counting, reservation: str, plan: Plan, held: int) -> None:
        """`held` in picodollars; `reservation` "": nothing is held."""
        self._limiter, self._plan, self.held = limiter, plan, held
        self._names = [reservation] if reservation else []

    def ended(self, cost_picousd: int | None, sold: bool, name: str) -> None:
        """A response is over. What was sold at an unknown price is taken for all that was held for it. `name`: of what other
        processes may see too; it counts once."""
        spent = cost_picousd if cost_picousd is not None else self.held if sold else 0
        if name and spent:
            self._limiter.count(Cost(name, self._plan, 0, spent, cross_process=True))
            self.count(0)
        else:
            self.count(spent)

    def count(self, spent_picousd: int) -> None:
        """Count a cost, at once in this process, in a moment in a remote store."""
        cost = self._cost(spent_picousd)
        if cost.held or cost.spent:
            self._limiter.count(cost)

    def count_now(self, spent_picousd: int) -> bool:
        """Count a cost and wait for the store; whether it has it (if not, it is told again in the background)."""
        return self._limiter.count_now(self._cost(spent_picousd))

    def _cost(self, spent_picousd: int) -> Cost:
        try:
            return Cost(self._names.pop(), self._plan, self.held, spent_picousd)
        except IndexError:  # one more response to the same request
            return Cost(self._limiter.another(), self._plan, 0, spent_picousd)
