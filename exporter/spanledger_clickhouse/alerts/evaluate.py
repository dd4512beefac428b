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


def look(ledger: Ledger, now: datetime, destinations: Sequence[Destination]) -> list[Told]:
    """Tell of every threshold that has been passed and not been told of in its period.

    Of several thresholds at once only the highest is told: what is below goes without saying.

    Args:
        ledger: is asked, and written to.
        at: the moment; budgets stand as they do then, and in the period before for a while after its end.
        destinations: are told; with none, what is to be told stays so.

    Raises:
        DatabaseError: the ledger does not answer.
    """
    statuses = [*budget_status.near(budget_status.standings(ledger, now)), *budget_status.near(_ended(ledger, now))]
    alerts = [Alert(status, threshold) for status, threshold in passed(statuses)]
    return delivery_log.tell(ledger, alerts, destinations, _details(ledger, now))


def _ended(ledger: Ledger, now: datetime) -> Iterator[Standing]:
    """How budgets that were there already stood at the end of the period before, for a while after it."""
    since: dict[str, datetime] = dict(ledger.query(SET).rows)
    for budget in budget_table.read(ledger).budgets:
        running = window(budget.window, now, budget.zone)
        if now - running.start < GRACE[budget.window] and since.get(budget.name, now) < running.start:
            previous = window(budget.window, running.start - timedelta(microseconds=1), budget.zone)
            yield from budget_status.standings_in(ledger, budget, previous, previous.end)


def passed(statuses: Iterable[Standing]) -> list[tuple[Standing, float]]:
    """(how a budget stands, the highest of its thresholds that it has passed)."""
    crossings: list[tuple[Standing, float]] = []
    for status in statuses:
        reached = [t for t in status.budget.thresholds if status.spent_usd >= status.amount_usd * Decimal(str(t))]
        if reached:
            crossings.append((status, max(reached)))
    return crossings


def _details(ledger: Ledger, now: datetime) -> Callable[[Alert], Alert]:
    """What adds to an alert the features and users that have spent most of the budget, to the first alerts of a look."""
    detailed_count = 0

    def detailed(alert: Alert) -> Alert:
        nonlocal detailed_count
        detailed_count += 1
        status, budget = alert.standing, alert.standing.budget
        scope = {**budget.scope, budget.per: status.value} if budget.per else dict(budget.scope)
        tops: list[tuple[tuple[str, Decimal], ...]] = []
        for dimension in ("feature", "user"):
            if dimension in scope:
                tops.append(((scope[dimension], status.spent_usd),))
            elif detailed_count <= MAX_DETAILED:
                tops.append(_top(ledger, replace(budget, scope=scope, per=dimension), status.window, now))
            else:
                tops.append(())
        return Alert(status, alert.threshold, *tops)

    return detailed


def _top(ledger: Ledger, budget: Budget, running: Window, now: datetime) -> tuple[tuple[str, Decimal], ...]:
    """Who has spent most of a budget; what nobody is named for is one of them. Nobody, where the ledger does not say it in
    time: what is told matters more."""
    try:
        live = budget_status.is_present(running, now)
        return tuple(
            budget_status.spending(ledger, budget, running.start, min(now, running.end), include_unattributed=True, live=live)[:TOP]
        )
    except DatabaseError as error:
        log.warning("an alert of budget %r names no %s: %s", budget.name, budget.per, error)
        return ()
