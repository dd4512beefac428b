"""Evaluates every budget once: finds crossed thresholds and sends their alerts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from spanledger.limits.periods import Window, window
from spanledger.limits.policy import Budget
from spanledger.runtime.guard import log
from spanledger_clickhouse.alerts import delivery_log
from spanledger_clickhouse.alerts.delivery_log import DeliveryResult
from spanledger_clickhouse.alerts.destinations import Destination
from spanledger_clickhouse.alerts.messages import Alert, Refusals
from spanledger_clickhouse.budgets import status as budget_status
from spanledger_clickhouse.budgets import table as budget_table
from spanledger_clickhouse.budgets.status import BudgetStatus
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement

TOP_SPENDERS: Final = 5
MAX_DETAILED: Final = 20
"""Alerts per evaluation that list top features and users: each needs up to four queries."""
MANY: Final = 6
"""Reasons of refusals from which they are one alert."""
GRACE: Final = {"hour": timedelta(minutes=75), "day": timedelta(hours=25), "month": timedelta(hours=25)}
"""How long a period is still evaluated after its end: rows arrive late, and evaluations may be an hour apart, or a day
if no budget is hourly."""
BUDGETS_UPDATED_AT: Final = "SELECT name, updated_at FROM budgets FINAL"


def evaluate(ledger: Ledger, now: datetime, destinations: Sequence[Destination]) -> list[DeliveryResult]:
    """Send an alert for every threshold that was crossed and not yet alerted in its period.

    If several thresholds were crossed, only the highest is alerted.

    Args:
        ledger: queried, and written to.
        now: time of the evaluation; the previous period is included for a while after its end.
        destinations: receive the alerts; without any, alerts stay pending.

    Raises:
        DatabaseError: the ledger does not answer.
    """
    running = list(budget_status.near_limit(budget_status.statuses(ledger, now)))
    previous = list(budget_status.near_limit(_previous_periods(ledger, now)))
    statuses = [*budget_status.highest(running), *budget_status.highest(previous)]
    alerts: list[Alert | Refusals] = [Alert(status, threshold) for status, threshold in crossed_thresholds(statuses)]
    alerts += _refusals(ledger, now)
    outcomes = delivery_log.deliver_once(ledger, alerts, destinations, _details(ledger, now))
    holding = {Alert(status, threshold).id for status in (*running, *previous) for threshold in _reached(status)}
    return outcomes + delivery_log.resolve(ledger, holding | {alert.id for alert in alerts}, destinations)


def _refusals(ledger: Ledger, now: datetime) -> Iterator[Refusals]:
    """Calls that were refused in the hour under way and the one before: an alert an hour for each reason, or one for many."""
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    for begun in (hour - timedelta(hours=1), hour):
        window = {"since": begun, "until": min(now, begun + timedelta(hours=1))}
        refusals = [
            Refusals(str(reason), count, callers, tuple((name or "", n) for name, n in top), begun, str(pattern))
            for pattern, reason, count, callers, top in ledger.query(statement("alerts/refusals"), window).rows
        ]
        yield from refusals if len(refusals) < MANY else [_together(refusals)]


def _together(refusals: Sequence[Refusals]) -> Refusals:
    """Refusals for many reasons as one; whoever is refused for two of them counts for each."""
    callers = [caller for alert in refusals for caller in alert.top]
    most = sorted(callers, key=lambda caller: -caller[1])[:TOP_SPENDERS]
    reason = f"{len(refusals)} reasons, most often {refusals[0].reason}"
    calls, caller_count = sum(alert.count for alert in refusals), sum(alert.callers for alert in refusals)
    return Refusals(reason, calls, caller_count, tuple(most), refusals[0].begun, "many")


def _previous_periods(ledger: Ledger, now: datetime) -> Iterator[BudgetStatus]:
    """Statuses of already existing budgets at the end of the previous period, for a while after it."""
    since: dict[str, datetime] = dict(ledger.query(BUDGETS_UPDATED_AT).rows)
    for budget in budget_table.read(ledger).budgets:
        running = window(budget.window, now, budget.zone)
        if now - running.start < GRACE[budget.window] and since.get(budget.name, now) < running.start:
            previous = window(budget.window, running.start - timedelta(microseconds=1), budget.zone)
            yield from budget_status.statuses_in(ledger, budget, previous, previous.end)


def crossed_thresholds(statuses: Iterable[BudgetStatus]) -> list[tuple[BudgetStatus, float]]:
    """(status of a budget, the highest threshold that it has crossed)."""
    crossings: list[tuple[BudgetStatus, float]] = []
    for status in statuses:
        reached = _reached(status)
        if reached:
            crossings.append((status, max(reached)))
    return crossings


def _reached(status: BudgetStatus) -> list[float]:
    """The thresholds that a budget has crossed."""
    return [t for t in status.budget.thresholds if status.spent_usd >= status.amount_usd * Decimal(str(t))]


def _details(ledger: Ledger, now: datetime) -> Callable[[Alert], Alert]:
    """Returns a function that adds the top features and users to the first alerts of an evaluation."""
    detailed_count = 0

    def with_details(alert: Alert) -> Alert:
        nonlocal detailed_count
        detailed_count += 1
        status, budget = alert.status, alert.status.budget
        scope = {**budget.scope, budget.per: status.value} if budget.per else dict(budget.scope)
        tops: list[tuple[tuple[str, Decimal], ...]] = []
        for dimension in ("feature", "user"):
            if dimension in scope:
                tops.append(((scope[dimension], status.spent_usd),))
            elif detailed_count <= MAX_DETAILED:
                tops.append(_top_spenders(ledger, replace(budget, scope=scope, per=dimension), status.window, now))
            else:
                tops.append(())
        changed = _changed(ledger, status, scope, now) if detailed_count <= MAX_DETAILED else None
        return Alert(status, alert.threshold, tops[0], tops[1], changed)

    return with_details


def _changed(
    ledger: Ledger, status: BudgetStatus, scope: dict[str, str], now: datetime
) -> tuple[str, Decimal, Decimal] | None:
    """The feature whose spend grew most against the same time of the period before; None where that is not known."""
    if "feature" in scope:
        return None
    running = status.window
    previous = window(status.budget.window, running.start - timedelta(microseconds=1), status.budget.zone)
    elapsed = min(now, running.end) - running.start
    features = replace(status.budget, scope=scope, per="feature")
    try:
        spent = budget_status.spending(
            ledger, features, running.start, running.start + elapsed, live=budget_status.is_current(running, now)
        )
        before = dict(
            budget_status.spending(ledger, features, previous.start, min(previous.end, previous.start + elapsed))
        )
    except DatabaseError:
        return None
    growth = [(cost - before.get(name, Decimal(0)), name, cost) for name, cost in spent]
    grown, name, cost = max(growth, default=(Decimal(0), "", Decimal(0)))
    return (name, cost, before.get(name, Decimal(0))) if grown > 0 and before else None


def _top_spenders(ledger: Ledger, budget: Budget, running: Window, now: datetime) -> tuple[tuple[str, Decimal], ...]:
    """Top spenders of a budget, unattributed spend included. Empty if the ledger does not answer in time: sending
    the alert matters more."""
    try:
        live = budget_status.is_current(running, now)
        return tuple(
            budget_status.spending(
                ledger, budget, running.start, min(now, running.end), include_unattributed=True, live=live
            )[:TOP_SPENDERS]
        )
    except DatabaseError as error:
        log.warning("an alert of budget %r does not list the top %s values: %s", budget.name, budget.per, error)
        return ()
