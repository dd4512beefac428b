"""One look at every budget: which thresholds have been passed, and what else the guard keeps right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from math import ceil
from typing import Final

from spanledger.limits.plan import AFTER_SECONDS
from spanledger.limits.store import Account, RedisStore, StoreError
from spanledger_clickhouse import budgets
from spanledger_clickhouse.alerts import telling
from spanledger_clickhouse.alerts.destinations import Destination
from spanledger_clickhouse.alerts.messages import Alert
from spanledger_clickhouse.alerts.telling import Told
from spanledger_clickhouse.budgets import Standing
from spanledger_clickhouse.database import DatabaseError
from spanledger_clickhouse.ledger import Ledger

TOP: Final = 5
MAX_VALUES: Final = 1000
"""Of a budget per user, tenant, ...: how many are looked at, those who have spent most first."""
NEAR: Final = 0.5
"""The share from which Redis is told what the ledger knows of one user's (tenant's, ...) budget."""


def look(ledger: Ledger, at: datetime, destinations: Sequence[Destination]) -> list[Told]:
    """Tell of every threshold that has been passed and not been told of in its period.

    Of several thresholds at once only the highest is told: what is below goes without saying.

    Args:
        ledger: is asked, and written to.
        at: the moment; budgets stand as they do then.
        destinations: are told; with none the alerts count as told.

    Raises:
        DatabaseError: the ledger does not answer.
    """
    found = passed(near(budgets.standings(ledger, at)))
    return telling.tell(
        ledger, [_alert(ledger, at, standing, threshold) for standing, threshold in found], destinations
    )


def level(ledger: Ledger, at: datetime, store: RedisStore) -> None:
    """Take what is counted in Redis to be at least what the ledger has: calls of processes that do not enforce, calls made
    while Redis was away, and all of it where Redis has lost its data.

    Raises:
        DatabaseError: the ledger, or Redis, does not answer.
    """
    for each in near(budgets.standings(ledger, at)):
        begun, end = each.window.start.timestamp(), each.window.end.timestamp()
        account = Account(each.budget.account(each.value, int(begun)), 0, ceil(end - begun) + AFTER_SECONDS)
        try:
            store.at_least(account, int(each.spent_usd.scaleb(12)))
        except StoreError as error:
            raise DatabaseError(str(error)) from error


def near(standings: Iterable[Standing]) -> Iterable[Standing]:
    """Those that matter; of a budget per user not everybody who has spent a cent."""
    seen: dict[str, int] = {}
    for each in standings:
        lowest = min(each.budget.thresholds, default=1.0)
        if each.budget.per and each.utilisation < min(NEAR, lowest):
            continue
        seen[each.budget.name] = seen.get(each.budget.name, 0) + 1
        if seen[each.budget.name] <= MAX_VALUES:
            yield each


def passed(standings: Iterable[Standing]) -> list[tuple[Standing, float]]:
    """(how a budget stands, the highest of its thresholds that it has passed)."""
    found: list[tuple[Standing, float]] = []
    for each in standings:
        reached = [t for t in each.budget.thresholds if each.spent_usd >= each.amount_usd * Decimal(str(t))]
        if reached:
            found.append((each, max(reached)))
    return found


def _alert(ledger: Ledger, at: datetime, standing: Standing, threshold: float) -> Alert:
    """With the features and users that have spent most of the budget."""
    budget = standing.budget
    scope = {**budget.scope, budget.per: standing.value} if budget.per else dict(budget.scope)
    tops: list[tuple[tuple[str, Decimal], ...]] = []
    for dimension in ("feature", "user"):
        if dimension in scope:
            tops.append(((scope[dimension], standing.spent_usd),))
        else:
            narrowed = replace(budget, scope=scope, per=dimension)
            tops.append(tuple(budgets.spending(ledger, narrowed, standing.window.start, at)[:TOP]))
    return Alert(standing, threshold, *tops)
