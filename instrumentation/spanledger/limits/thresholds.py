"""Reports crossed budget thresholds, each once per window across all processes."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Final

from spanledger.limits.matching_budgets import MatchedBudgets
from spanledger.limits.policy import Budget
from spanledger.limits.store.protocol import BudgetCounter, Store, StoreError
from spanledger.runtime.guard import log

MAX_REPORTED: Final = 10_000


class Thresholds:
    """Logs crossed thresholds that no other process has reported, according to the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reported: OrderedDict[tuple[str, float], None] = OrderedDict()
        """(counter, threshold) pairs that need no further store request."""
        self.report_counts: Counter[tuple[str, float]] = Counter()
        """(budget, threshold) -> how often this process was the first to report it."""

    def report_crossed(self, matched: MatchedBudgets, spent: Sequence[int]) -> None:
        """Report crossed thresholds. `spent`: picodollars of each matched budget."""
        for budget, counter, amount, lowest_threshold in zip(
            matched.budgets, matched.accounts, spent, matched.lowest_thresholds, strict=True
        ):
            if amount >= lowest_threshold:
                self._report(budget, counter, amount)

    def _report(self, budget: Budget, counter: BudgetCounter, spent: int) -> None:
        """The dimension's value is on the rows, not in the log: it may identify a user."""
        threshold = _highest_crossed(budget, spent)
        alert_key = (counter.key, threshold)
        if not threshold or alert_key in self._reported:
            return
        self._reported[alert_key] = None
        if len(self._reported) > MAX_REPORTED:
            self._reported.popitem(last=False)
        try:
            first = self._store.claim_alert(counter, str(threshold))
        except StoreError:
            first = True  # at least once
        if first:
            self.report_counts[budget.name, threshold] += 1
            per_dimension = f" of one {budget.per}" if budget.per else ""
            share = spent / budget.amount_picousd * 100
            log.warning("budget %r%s: %.0f%% of %s for the %s is spent", budget.name, per_dimension, share, budget.amount_text, budget.window)  # fmt: skip


def warnings(matched: MatchedBudgets, spent: Sequence[int]) -> tuple[str, ...]:
    """The highest threshold that each budget has crossed, e.g. ("everything 90%",)."""
    for amount, lowest_threshold in zip(spent, matched.lowest_thresholds, strict=True):
        if amount >= lowest_threshold:
            break
    else:
        return ()
    crossed = [
        (budget.name, _highest_crossed(budget, amount)) for budget, amount in zip(matched.budgets, spent, strict=True)
    ]
    return tuple(f"{name} {threshold:.0%}" for name, threshold in crossed if threshold)


def _highest_crossed(budget: Budget, spent: int) -> float:
    """The highest crossed threshold; 0.0: none."""
    share = spent / budget.amount_picousd
    return max((threshold for threshold in budget.thresholds if share >= threshold), default=0.0)
