"""Budget status: spend, utilization and burn rate of each budget in its current period, from closed rollups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from spanledger.limits.periods import Window, window
from spanledger.limits.policy import Budget
from spanledger.runtime.guard import log
from spanledger.semconv.dimensions import BUDGET_DIMENSIONS
from spanledger_clickhouse.budgets.table import read
from spanledger_clickhouse.database.ledger import Ledger

ROLLUPS: Final = (
    ("llm_costs", 3600, {"feature"}),
    ("llm_costs_daily", 86_400, {"tenant", "tier", "feature"}),
    ("llm_costs_users", 86_400, {"tenant", "feature", "user"}),
)
"""(view, bucket seconds, its dimensions): the first that can answer a query is used."""


BURN_RATE_DAYS: Final = 7


MAX_VALUES: Final = 1000
"""Values (users, tenants, ...) evaluated per budget, highest spend first."""


NOTEWORTHY_SHARE: Final = 0.5
"""Utilization from which a value of a budget per user (tenant, ...) is noteworthy, unless it alerts or acts earlier."""


@dataclass(frozen=True)
class BudgetStatus:
    """Status of a budget in a period; a budget per user (tenant, ...) has one for each value with spend."""

    budget: Budget
    value: str
    """The user, tenant, ... of a budget per dimension; else ''."""
    window: Window
    spent_usd: Decimal
    projected_usd: Decimal | None = None
    """Forecast at the end of the period from the burn rate of the last seven full days; for an hour, from its own."""

    @property
    def amount_usd(self) -> Decimal:
        return Decimal(self.budget.amount_picousd).scaleb(-12)

    @property
    def utilisation(self) -> float:
        return float(self.spent_usd / self.amount_usd)

    @property
    def label(self) -> str:
        """Display name: the budget's name and, if any, the value."""
        return f"{self.budget.name} ({self.budget.per} {self.value})" if self.budget.per else self.budget.name


def statuses(ledger: Ledger, as_of: datetime, budgets: Iterable[Budget] | None = None) -> Iterator[BudgetStatus]:
    """Status of each budget (by default all of the ledger) at a point in time, highest spend first.

    A budget per user has one status for each user with spend, and none without any.

    Raises:
        DatabaseError: the ledger cannot be queried.
    """
    for budget in read(ledger).budgets if budgets is None else budgets:
        running = window(budget.window, as_of, budget.zone)
        yield from statuses_in(ledger, budget, running, min(as_of, running.end))


def statuses_in(ledger: Ledger, budget: Budget, running: Window, until: datetime) -> Iterator[BudgetStatus]:
    """Status of a budget in a period up to a point in time; see `statuses`."""
    burn_rates = _burn_rates(ledger, budget, until) if budget.window != "hour" and until < running.end else {}
    spent = spending(ledger, budget, running.start, until, live=is_current(running, until))
    for value, amount in spent or ([] if budget.per else [("", Decimal(0))]):
        yield BudgetStatus(budget, value, running, amount, _projected(running, until, amount, burn_rates.get(value)))


def noteworthy(statuses: Iterable[BudgetStatus]) -> Iterator[BudgetStatus]:
    """Filters noteworthy statuses: of a budget per user, only users near its limit or thresholds."""
    counts: Counter[str] = Counter()
    for status in statuses:
        if status.budget.per and status.utilisation < min(
            NOTEWORTHY_SHARE, float(status.budget.effective_action_share), *status.budget.thresholds
        ):
            continue
        counts[status.budget.name] += 1
        if counts[status.budget.name] <= MAX_VALUES:
            yield status
    for name, count in counts.items():
        if count > MAX_VALUES:
            log.warning(
                "budget %r: %d values are near its limit, only the top %d are evaluated", name, count, MAX_VALUES
            )  # fmt: skip


def is_current(running: Window, as_of: datetime) -> bool:
    """Whether a point in time is in the current period and less than a minute ago."""
    return as_of < running.end and as_of > datetime.now(UTC) - timedelta(minutes=1)


def spending(
    ledger: Ledger,
    budget: Budget,
    since: datetime,
    until: datetime,
    *,
    include_unattributed: bool = False,
    live: bool = False,
) -> list[tuple[str, Decimal]]:
    """(value of `per`, or "", spend in USD), highest spend first. Raises DatabaseError.

    Args:
        ledger: the ledger to query.
        budget: the budget.
        since: start, inclusive.
        until: end, exclusive.
        include_unattributed: include "" for calls without a value.
        live: whether `until` is the present: then all rows of the current hour or day may be counted.
    """
    source, time, cost = _source({*budget.scope, budget.per} - {""}, since, until, live=live)
    value = f"ifNull(toString({BUDGET_DIMENSIONS[budget.per].column}), '')" if budget.per else "''"
    conditions = _conditions(budget, time, "" if include_unattributed else value)
    statement = (
        f"SELECT {value} AS value, sum({cost}) AS spent FROM {source} WHERE {conditions} "
        "GROUP BY value HAVING isNotNull(spent) ORDER BY spent DESC, value"
    )
    rows = ledger.query(statement, {"since": since, "until": until, **budget.scope}).rows
    return [(value, Decimal(spent)) for value, spent in rows]


def _conditions(budget: Budget, time: str, value: str) -> str:
    conditions = [f"{time} >= {{since:DateTime('UTC')}}", f"{time} < {{until:DateTime64(6, 'UTC')}}"]
    conditions += [f"{BUDGET_DIMENSIONS[dimension].column} = {{{dimension}:String}}" for dimension in budget.scope]
    return " AND ".join([*conditions, f"{value} != ''"] if budget.per and value else conditions)


def _source(needed: set[str], since: datetime, until: datetime, *, live: bool = False) -> tuple[str, str, str]:
    """(table, time column, cost column) with the dimensions, in buckets that start at `since` and end at `until`,
    or have no rows after it."""
    for view, seconds, dimensions in ROLLUPS:
        whole = until.timestamp() % seconds == 0 or live or until >= datetime.now(UTC)
        if needed <= dimensions and since.timestamp() % seconds == 0 and whole:
            return view, "toDateTime(bucket, 'UTC')", "cost_usd"
    return "llm_calls AS c FINAL", "c.start_time", "c.cost_usd"


def _burn_rates(ledger: Ledger, budget: Budget, as_of: datetime) -> dict[str, Decimal]:
    """Burn rate: mean daily spend of each value over the last seven full days (UTC), or as many as it has (view
    budget_status)."""
    today = as_of.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    source, time, cost = _source({*budget.scope, budget.per} - {""}, today, today)
    value = f"ifNull(toString({BUDGET_DIMENSIONS[budget.per].column}), '')" if budget.per else "''"
    statement = (
        f"SELECT {value} AS value, sumIf({cost}, {time} >= {{week:DateTime('UTC')}}) AS spent, min(toDate({time})) "
        f"FROM {source} WHERE {_conditions(budget, time, value)} AND isNotNull({cost}) GROUP BY value"
    )
    week, since = today - timedelta(days=BURN_RATE_DAYS), today - timedelta(days=4 * BURN_RATE_DAYS)
    rows = ledger.query(statement, {"since": since, "until": today, "week": week, **budget.scope}).rows
    days = {value: min(BURN_RATE_DAYS, max(1, (today.date() - first).days)) for value, _, first in rows}
    return {value: Decimal(spent or 0) / days[value] for value, spent, _ in rows}


def _projected(running: Window, as_of: datetime, spent: Decimal, burn_rate: Decimal | None) -> Decimal | None:
    left = Decimal(running.seconds_left(as_of))
    if burn_rate is not None:
        return spent + burn_rate * left / 86_400
    elapsed = Decimal((as_of - running.start).total_seconds())
    return spent + spent / elapsed * left if elapsed > 0 else None
