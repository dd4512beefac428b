"""How budgets stand: spend, utilization and burn rate of each budget in its current period, from rollups where they are closed."""

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
from spanledger_clickhouse.budgets.table import COLUMN_OF, read
from spanledger_clickhouse.database.ledger import Ledger

ROLLUPS: Final = (
    ("llm_costs", 3600, {"feature"}),
    ("llm_costs_daily", 86_400, {"tenant", "tier", "feature"}),
    ("llm_costs_users", 86_400, {"tenant", "feature", "user"}),
)
"""(view, seconds of a bucket, dimensions that it knows): the first that can say it is asked."""


PACE_DAYS: Final = 7


MAX_VALUES: Final = 1000
"""Of a budget per user, tenant, ...: how many are looked at, those who have spent most first."""


NEAR: Final = 0.5
"""The share from which one of a budget per user (tenant, ...) matters, unless it tells or acts earlier."""


@dataclass(frozen=True)
class Standing:
    """How a budget stands in a window; of a budget per user (tenant, ...) there is one for each that has spent."""

    budget: Budget
    value: str
    """Of a budget per user, tenant, ...: whose; else ''."""
    window: Window
    spent_usd: Decimal
    projected_usd: Decimal | None = None
    """At the end of the window, at the pace of the last seven full days; of an hour, at its own pace."""

    @property
    def amount_usd(self) -> Decimal:
        return Decimal(self.budget.amount_picousd).scaleb(-12)

    @property
    def utilisation(self) -> float:
        return float(self.spent_usd / self.amount_usd)

    @property
    def whose(self) -> str:
        """The budget's name, and the value that it is about."""
        return f"{self.budget.name} ({self.budget.per} {self.value})" if self.budget.per else self.budget.name


def standings(ledger: Ledger, as_of: datetime, budgets: Iterable[Budget] | None = None) -> Iterator[Standing]:
    """How each budget (by default all of the ledger) stands at a moment, the fullest value of a budget first.

    A budget per user has one for each user who has spent anything of it; one with nobody has none.

    Raises:
        DatabaseError: the ledger cannot be asked.
    """
    for budget in read(ledger).budgets if budgets is None else budgets:
        running = window(budget.window, as_of, budget.zone)
        yield from standings_in(ledger, budget, running, min(as_of, running.end))


def standings_in(ledger: Ledger, budget: Budget, running: Window, until: datetime) -> Iterator[Standing]:
    """How a budget stood in a window at a moment of it; see `standings`."""
    burn_rates = _paces(ledger, budget, until) if budget.window != "hour" and until < running.end else {}
    spent = spending(ledger, budget, running.start, until, live=is_present(running, until))
    for value, amount in spent or ([] if budget.per else [("", Decimal(0))]):
        yield Standing(budget, value, running, amount, _projected(running, until, amount, burn_rates.get(value)))


def near(statuses: Iterable[Standing]) -> Iterator[Standing]:
    """Those that matter; of a budget per user not everybody who has spent a cent."""
    counts: Counter[str] = Counter()
    for status in statuses:
        if status.budget.per and status.utilisation < min(NEAR, float(status.budget.acts_at), *status.budget.thresholds):
            continue
        counts[status.budget.name] += 1
        if counts[status.budget.name] <= MAX_VALUES:
            yield status
    for name, count in counts.items():
        if count > MAX_VALUES:
            log.warning(
                "budget %r: of %d who are near it, only the %d who have spent most are looked at", name, count, MAX_VALUES
            )  # fmt: skip


def is_present(running: Window, as_of: datetime) -> bool:
    """Whether a moment of a window is the present, or as good as that."""
    return as_of < running.end and as_of > datetime.now(UTC) - timedelta(minutes=1)


def spending(
    ledger: Ledger, budget: Budget, since: datetime, until: datetime, *, include_unattributed: bool = False, live: bool = False
) -> list[tuple[str, Decimal]]:
    """(value of `per`, or "", what was spent in USD), the most first. Raises DatabaseError.

    Args:
        ledger: is asked.
        each: the budget.
        since: from when.
        until: until when.
        nobody: whether "" of calls that have no such value is among them.
        live: whether `until` is the present: of an hour or a day that is under way all may be counted that is there.
    """
    source, time, cost = _source({*budget.scope, budget.per} - {""}, since, until, live=live)
    value = f"ifNull(toString({COLUMN_OF[budget.per]}), '')" if budget.per else "''"
    conditions = _conditions(budget, time, "" if include_unattributed else value)
    statement = (
        f"SELECT {value} AS value, sum({cost}) AS spent FROM {source} WHERE {conditions} "
        "GROUP BY value HAVING isNotNull(spent) ORDER BY spent DESC, value"
    )
    rows = ledger.query(statement, {"since": since, "until": until, **budget.scope}).rows
    return [(value, Decimal(spent)) for value, spent in rows]


def _conditions(budget: Budget, time: str, value: str) -> str:
    conditions = [f"{time} >= {{since:DateTime('UTC')}}", f"{time} < {{until:DateTime64(6, 'UTC')}}"]
    conditions += [f"{COLUMN_OF[dimension]} = {{{dimension}:String}}" for dimension in budget.scope]
    return " AND ".join([*conditions, f"{value} != ''"] if budget.per and value else conditions)


def _source(needed: set[str], since: datetime, until: datetime, *, live: bool = False) -> tuple[str, str, str]:
    """(table, its time, its cost) that knows the dimensions, in buckets that begin at `since` and end at `until`, or have
    nothing after it."""
    for view, seconds, dimensions in ROLLUPS:
        whole = until.timestamp() % seconds == 0 or live or until >= datetime.now(UTC)
        if needed <= dimensions and since.timestamp() % seconds == 0 and whole:
            return view, "toDateTime(bucket, 'UTC')", "cost_usd"
    return "llm_calls AS c FINAL", "c.start_time", "c.cost_usd"


def _paces(ledger: Ledger, budget: Budget, as_of: datetime) -> dict[str, Decimal]:
    """What each value has spent a day, on average of the last seven full days (UTC), or as many as it has (view
    budget_status)."""
    today = as_of.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    source, time, cost = _source({*budget.scope, budget.per} - {""}, today, today)
    value = f"ifNull(toString({COLUMN_OF[budget.per]}), '')" if budget.per else "''"
    statement = (
        f"SELECT {value} AS value, sumIf({cost}, {time} >= {{week:DateTime('UTC')}}) AS spent, min(toDate({time})) "
        f"FROM {source} WHERE {_conditions(budget, time, value)} AND isNotNull({cost}) GROUP BY value"
    )
    week, since = today - timedelta(days=PACE_DAYS), today - timedelta(days=4 * PACE_DAYS)
    rows = ledger.query(statement, {"since": since, "until": today, "week": week, **budget.scope}).rows
    days = {value: min(PACE_DAYS, max(1, (today.date() - first).days)) for value, _, first in rows}
    return {value: Decimal(spent or 0) / days[value] for value, spent, _ in rows}


def _projected(running: Window, as_of: datetime, spent: Decimal, burn_rate: Decimal | None) -> Decimal | None:
    left = Decimal(running.seconds_left(as_of))
    if burn_rate is not None:
        return spent + burn_rate * left / 86_400
    elapsed = Decimal((as_of - running.start).total_seconds())
    return spent + spent / elapsed * left if elapsed > 0 else None
