"""One look at every budget: which thresholds have been passed, and what else the guard keeps right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from spanledger.limits.periods import Window, window
from spanledger.limits.policy import Budget
from spanledger.runtime.guard import log
from spanledger_clickhouse.alerts import delivery_log
from spanledger_clickhouse.alerts.delivery_log import Told
from spanledger_clickhouse.alerts.destinations import Destination
from spanledger_clickhouse.alerts.messages import Alert
from spanledger_clickhouse.budgets import status as budget_status
from spanledger_clickhouse.budgets import table as budget_table
from spanledger_clickhouse.budgets.status import Standing
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.database.ledger import Ledger

TOP: Final = 5
MAX_DETAILED: Final = 20
"""Alerts of one look whose features and users are asked for: each is two queries."""
GRACE: Final = {"hour": timedelta(minutes=75), "day": timedelta(hours=25), "month": timedelta(hours=25)}
"""How long after its end a window is looked at: rows come late, and looks may be an hour apart, or a day where no budget is
by the hour."""
SET: Final = "SELECT name, updated_at FROM budgets FINAL"


def look(ledger: Ledger, at: datetime, destinations: Sequence[Destination]) -> list[Told]:
    """Tell of every threshold that has been passed and not been told of in its period.

    Of several thresholds at once only the highest is told: what is below goes without saying.

    Args:
        ledger: is asked, and written to.
        at: the moment; budgets stand as they do then, and in the period before for a while after its end.
        destinations: are told; with none, what is to be told stays so.

    Raises:
        DatabaseError: the ledger does not answer.
    """
    found = [*budget_status.near(budget_status.standings(ledger, at)), *budget_status.near(_ended(ledger, at))]
    alerts = [Alert(standing, threshold) for standing, threshold in passed(found)]
    return delivery_log.tell(ledger, alerts, destinations, _details(ledger, at))


def _ended(ledger: Ledger, at: datetime) -> Iterator[Standing]:
    """How budgets that were there already stood at the end of the period before, for a while after it."""
    since: dict[str, datetime] = dict(ledger.query(SET).rows)
    for each in budget_table.read(ledger).budgets:
        running = window(each.window, at, each.zone)
        if at - running.start < GRACE[each.window] and since.get(each.name, at) < running.start:
            before = window(each.window, running.start - timedelta(microseconds=1), each.zone)
            yield from budget_status.standings_in(ledger, each, before, before.end)


def passed(standings: Iterable[Standing]) -> list[tuple[Standing, float]]:
    """(how a budget stands, the highest of its thresholds that it has passed)."""
    found: list[tuple[Standing, float]] = []
    for each in standings:
        reached = [t for t in each.budget.thresholds if each.spent_usd >= each.amount_usd * Decimal(str(t))]
        if reached:
            found.append((each, max(reached)))
    return found


def _details(ledger: Ledger, at: datetime) -> Callable[[Alert], Alert]:
    """What adds to an alert the features and users that have spent most of the budget, to the first alerts of a look."""
    asked = 0

    def detailed(alert: Alert) -> Alert:
        nonlocal asked
        asked += 1
        standing, budget = alert.standing, alert.standing.budget
        scope = {**budget.scope, budget.per: standing.value} if budget.per else dict(budget.scope)
        tops: list[tuple[tuple[str, Decimal], ...]] = []
        for dimension in ("feature", "user"):
            if dimension in scope:
                tops.append(((scope[dimension], standing.spent_usd),))
            elif asked <= MAX_DETAILED:
                tops.append(_top(ledger, replace(budget, scope=scope, per=dimension), standing.window, at))
            else:
                tops.append(())
        return Alert(standing, alert.threshold, *tops)

    return detailed


def _top(ledger: Ledger, budget: Budget, running: Window, at: datetime) -> tuple[tuple[str, Decimal], ...]:
    """Who has spent most of a budget; what nobody is named for is one of them. Nobody, where the ledger does not say it in
    time: what is told matters more."""
    try:
        live = budget_status.is_present(running, at)
        return tuple(
            budget_status.spending(ledger, budget, running.start, min(at, running.end), nobody=True, live=live)[:TOP]
        )
    except DatabaseError as error:
        log.warning("an alert of budget %r names no %s: %s", budget.name, budget.per, error)
        return ()
