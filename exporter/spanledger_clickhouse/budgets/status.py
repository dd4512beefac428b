"""Budget status: spend, utilization and burn rate of each budget in its current period, from closed rollups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from spanledger.limits.periods import Window, window
from spanledger.limits.policy import Budget
from spanledger.runtime.guard import log
from spanledger.semconv.dimensions import BUDGET_DIMENSIONS
from spanledger_clickhouse.budgets.table import read
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement

ROLLUPS: Final = (
    ("llm_costs", 3600, {"feature"}),
    ("llm_costs_daily", 86_400, {"tenant", "tier", "feature"}),
    ("llm_costs_users", 86_400, {"tenant", "feature", "user"}),
)
"""(view, bucket seconds, its dimensions): the first that can answer a query is used."""


CALLS: Final = ("llm_calls AS c FINAL", "c.start_time", "c.cost_usd")
"""(table, time column, cost column) of the calls themselves."""
HISTORY_DAYS: Final = 32
"""Days before today that are read for a burn rate: its rule takes 28 (`burn_rate.sql`), the view one month."""
MAX_VALUES: Final = 1000
"""Values (users, tenants, ...) evaluated per budget, highest spend first."""


NOTEWORTHY_SHARE: Final = 0.5
"""Utilization from which a value of a budget per user (tenant, ...) is noteworthy, unless it alerts or acts earlier."""


class Forecast(NamedTuple):
    """The end of a period by the last seven full days and their weekdays (of an hour: its own rate); see `forecast.sql`."""

    projected_usd: float
    low_usd: float | None
    high_usd: float | None
    """The band that holds 80 %; None: there are less than seven full days of spend."""
    exhausted_at: datetime | None
    """When the amount was, or will be, used up; None: not in this period."""
    exhausted_earliest: datetime | None
    exhausted_latest: datetime | None


@dataclass(frozen=True)
class BudgetStatus:
    """Status of a budget in a period; a budget per user (tenant, ...) has one for each value with spend."""

    budget: Budget
    value: str
    """The user, tenant, ... of a budget per dimension; else ''."""
    window: Window
    spent_usd: Decimal
    forecast: Forecast | None = None

    @property
    def amount_usd(self) -> Decimal:
        return Decimal(self.budget.amount_picousd).scaleb(-12)

    @property
    def projected_usd(self) -> Decimal | None:
        """Spend at the end of the period, to the microdollar."""
        return None if self.forecast is None else round(Decimal(self.forecast.projected_usd), 6)

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
    for value, spent, *forecast in ledger.query(*_status_query(budget, running, until)).rows:
        yield BudgetStatus(budget, value, running, Decimal(spent), Forecast(*forecast))


def _status_query(budget: Budget, running: Window, until: datetime) -> tuple[str, dict[str, Any]]:
    source, time, cost = _source(_dimensions(budget), running.start, until, live=is_current(running, until))
    today = until.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    is_by_day = budget.window != "hour" and until < running.end
    elapsed_days = max(1.0, (until - running.start).total_seconds()) / 86_400
    query = statement(
        "budgets/status",
        value=value_sql(budget),
        cost=cost,
        source=source,
        time=time,
        scope=scope_sql(budget),
        by_value="GROUP BY value HAVING spent_usd > 0" if budget.per else "",
        rate="ifNull(d.daily_burn_rate, 0.)" if is_by_day else f"toFloat64(s.spent_usd) / {elapsed_days!r}",
        burn_rates=_burn_rates(budget, today, live=is_current(running, until))
        if is_by_day
        else "SELECT '' AS value, CAST([], 'Array(Tuple(Date, Float64))') AS daily",
        forecast=statement("budgets/forecast"),
    )
    return query, {
        "as_of": until,
        "since": running.start,
        "until": until,
        "period_end": running.end,
        "today": today,
        "history": today - timedelta(days=HISTORY_DAYS),
        "amount": budget.amount_picousd / 1e12,
        **budget.scope,
    }


def _burn_rates(budget: Budget, midnight: datetime, *, live: bool) -> str:
    """The SELECT of each value's burn rate. Full days come from the rollup, and so does today if it is the present."""
    rollup = _source(_dimensions(budget), midnight, midnight)
    history, today, until = "{history:DateTime('UTC')}", "{today:DateTime('UTC')}", "{until:DateTime64(6, 'UTC')}"
    parts = [(rollup, history, until)] if live else [(rollup, history, today), (CALLS, today, until)]
    days: list[str] = []
    for (source, time, cost), begin, end in parts:
        fragments = {"value": value_sql(budget), "scope": scope_sql(budget), "begin": begin, "end": end}
        days.append(statement("budgets/daily_spend", source=source, time=time, cost=cost, **fragments))
    return statement("budgets/burn_rates", days=" UNION ALL ".join(days), burn_rate=statement("budgets/burn_rate"))


def near_limit(statuses: Iterable[BudgetStatus]) -> Iterator[BudgetStatus]:
    """Of a budget per user, only users near its limit or thresholds."""
    for status in statuses:
        least = min(NOTEWORTHY_SHARE, float(status.budget.effective_action_share), *status.budget.thresholds)
        if not status.budget.per or status.utilisation >= least:
            yield status


def highest(statuses: Iterable[BudgetStatus]) -> Iterator[BudgetStatus]:
    """Of each budget at most `MAX_VALUES`, the first ones."""
    counts: Counter[str] = Counter()
    for status in statuses:
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
    source, time, cost = _source(_dimensions(budget), since, until, live=live)
    query = statement(
        "budgets/spending",
        value=value_sql(budget),
        cost=cost,
        source=source,
        time=time,
        scope=scope_sql(budget, include_unattributed=include_unattributed),
    )
    rows = ledger.query(query, {"since": since, "until": until, **budget.scope}).rows
    return [(value, Decimal(spent)) for value, spent in rows]


def value_sql(budget: Budget) -> str:
    """The SQL expression of the value of `per`."""
    return f"ifNull(toString({BUDGET_DIMENSIONS[budget.per].column}), '')" if budget.per else "''"


def scope_sql(budget: Budget, *, include_unattributed: bool = False) -> str:
    """The SQL condition of the scope; calls without a value of `per` are left out unless included."""
    conditions = ["1", *(f"{BUDGET_DIMENSIONS[name].column} = {{{name}:String}}" for name in budget.scope)]
    if budget.per and not include_unattributed:
        conditions.append(f"{value_sql(budget)} != ''")
    return " AND ".join(conditions)


def _dimensions(budget: Budget) -> set[str]:
    return {*budget.scope, budget.per} - {""}


def _source(needed: set[str], since: datetime, until: datetime, *, live: bool = False) -> tuple[str, str, str]:
    """(table, time column, cost column) with the dimensions, in buckets that start at `since` and end at `until`,
    or have no rows after it."""
    for view, seconds, dimensions in ROLLUPS:
        whole = until.timestamp() % seconds == 0 or live or until >= datetime.now(UTC)
        if needed <= dimensions and since.timestamp() % seconds == 0 and whole:
            return view, "toDateTime(bucket, 'UTC')", "cost_usd"
    return CALLS
