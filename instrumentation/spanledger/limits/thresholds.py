"""Shares of a budget that are told of when they have been spent, each once in a window over all processes."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Final

from spanledger.limits.matching_budgets import Plan
from spanledger.limits.policy import Budget
from spanledger.limits.store.protocol import Account, Store, StoreError
from spanledger.runtime.guard import log

MAX_TOLD: Final = 10_000


class Thresholds:
    """Tells of them in the log, where the store says that nobody has yet."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[tuple[str, float], None] = OrderedDict()
        """(account, threshold) that need not be asked about again."""
        self.told: Counter[tuple[str, float]] = Counter()
        """(budget, threshold) -> how often this process was the first to tell of it."""

    def look(self, plan: Plan, spent: Sequence[int]) -> None:
        """Tell of what has been passed. `spent`: picodollars, of each budget of the plan."""
        for budget, account, amount, floor in zip(plan.budgets, plan.accounts, spent, plan.floors, strict=True):
            if amount >= floor:
                self._tell(budget, account, amount)

    def _tell(self, budget: Budget, account: Account, spent: int) -> None:
        """Whose amount it is stands on the rows, not in logs."""
        threshold = _highest(budget, spent)
        alert_key = (account.key, threshold)
        if not threshold or alert_key in self._known:
            return
        self._known[alert_key] = None
        if len(self._known) > MAX_TOLD:
            self._known.popitem(last=False)
        try:
            first = self._store.first(account, str(threshold))
        except StoreError:
            first = True  # better twice than never
        if first:
            self.told[budget.name, threshold] += 1
            whose = f" of one {budget.per}" if budget.per else ""
            share = spent / budget.amount_picousd * 100
            log.warning("budget %r%s: %.0f%% of %s for the %s is spent", budget.name, whose, share, budget.shown, budget.window)  # fmt: skip


def warnings(plan: Plan, spent: Sequence[int]) -> tuple[str, ...]:
    """The highest threshold that each budget has passed, e.g. ("everything 90%",)."""
    for amount, floor in zip(spent, plan.floors, strict=True):
        if amount >= floor:
            break
    else:
        return ()
    passed = [(budget.name, _highest(budget, amount)) for budget, amount in zip(plan.budgets, spent, strict=True)]
    return tuple(f"{name} {threshold:.0%}" for name, threshold in passed if threshold)


def _highest(budget: Budget, spent: int) -> float:
    """The highest threshold that has been passed; 0.0: none."""
    share = spent / budget.amount_picousd
    return max((threshold for threshold in budget.thresholds if share >= threshold), default=0.0)
