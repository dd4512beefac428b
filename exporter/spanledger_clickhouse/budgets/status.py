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


def standings(ledger: Ledger, at: datetime, budgets: Iterable[Budget] | None = None) -> Iterator[Standing]:
    """How each budget (by default all of the ledger) stands at a moment, the fullest value of a budget first.

    A budget per user has one for each user who has spent anything of it; one with nobody has none.

    Raises:
        DatabaseError: the ledger cannot be asked.
    """
    for each in read(ledger).budgets if budgets is None else budgets:
        running = window(each.window, at, each.zone)
        yield from standings_in(ledger, each, running, min(at, running.end))


def standings_in(ledger: Ledger, each: Budget, running: Window, until: datetime) -> Iterator[Standing]:
    """How a budget stood in a window at a moment of it; see `standings`."""
    paces = _paces(ledger, each, until) if each.window != "hour" and until < running.end else {}
    spent = spending(ledger, each, running.start, until, live=is_present(running, until))
    for value, amount in spent or ([] if each.per else [("", Decimal(0))]):
        yield Standing(each, value, running, amount, _projected(running, until, amount, paces.get(value)))


def near(standings: Iterable[Standing]) -> Iterator[Standing]:
    """Those that matter; of a budget per user not everybody who has spent a cent."""
    seen: Counter[str] = Counter()
    for each in standings:
        if each.budget.per and each.utilisation < min(NEAR, float(each.budget.acts_at), *each.budget.thresholds):
            continue
        seen[each.budget.name] += 1
        if seen[each.budget.name] <= MAX_VALUES:
            yield each
    for name, count in seen.items():
        if count > MAX_VALUES:
            log.warning(
                "budget %r: of %d who are near it, only the %d who have spent most are looked at", name, count, MAX_VALUES
            )  # fmt: skip


def is_present(running: Window, at: datetime) -> bool:
    """Whether a moment of a window is the present, or as good as that."""
    return at < running.end and at > datetime.now(UTC) - timedelta(minutes=1)


def spending(
    ledger: Ledger, each: Budget, since: datetime, until: datetime, *, nobody: bool = False, live: bool = False
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
    source, time, cost = _source({*each.scope, each.per} - {""}, since, until, live=live)
    value = f"ifNull(toString({COLUMN_OF[each.per]}), '')" if each.per else "''"
    conditions = _conditions(each, time, "" if nobody else value)
    statement = (
        f"SELECT {value} AS value, sum({cost}) AS spent FROM {source} WHERE {conditions} "
        "GROUP BY value HAVING isNotNull(spent) ORDER BY spent DESC, value"
    )
    found = ledger.query(statement, {"since": since, "until": until, **each.scope}).rows
    return [(value, Decimal(spent)) for value, spent in found]


def _conditions(each: Budget, time: str, value: str) -> str:
    found = [f"{time} >= {{since:DateTime('UTC')}}", f"{time} < {{until:DateTime64(6, 'UTC')}}"]
    found += [f"{COLUMN_OF[dimension]} = {{{dimension}:String}}" for dimension in each.scope]
    return " AND ".join([*found, f"{value} != ''"] if each.per and value else found)


def _source(needed: set[str], since: datetime, until: datetime, *, live: bool = False) -> tuple[str, str, str]:
    """(table, its time, its cost) that knows the dimensions, in buckets that begin at `since` and end at `until`, or have
    nothing after it."""
    for view, seconds, known in ROLLUPS:
        whole = until.timestamp() % seconds == 0 or live or until >= datetime.now(UTC)
        if needed <= known and since.timestamp() % seconds == 0 and whole:
            return view, "toDateTime(bucket, 'UTC')", "cost_usd"
    return "llm_calls AS c FINAL", "c.start_time", "c.cost_usd"


def _paces(ledger: Ledger, each: Budget, at: datetime) -> dict[str, Decimal]:
    """What each value has spent a day, on average of the last seven full days (UTC), or as many as it has (view
    budget_status)."""
    today = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    source, time, cost = _source({*each.scope, each.per} - {""}, today, today)
    value = f"ifNull(toString({COLUMN_OF[each.per]}), '')" if each.per else "''"
    statement = (
        f"SELECT {value} AS value, sumIf({cost}, {time} >= {{week:DateTime('UTC')}}) AS spent, min(toDate({time})) "
        f"FROM {source} WHERE {_conditions(each, time, value)} AND isNotNull({cost}) GROUP BY value"
    )
    week, since = today - timedelta(days=PACE_DAYS), today - timedelta(days=4 * PACE_DAYS)
    found = ledger.query(statement, {"since": since, "until": today, "week": week, **each.scope}).rows
    days = {value: min(PACE_DAYS, max(1, (today.date() - first).days)) for value, _, first in found}
    return {value: Decimal(spent or 0) / days[value] for value, spent, _ in found}


def _projected(running: Window, at: datetime, spent: Decimal, pace: Decimal | None) -> Decimal | None:
    left = Decimal(running.seconds_left(at))
    if pace is not None:
        return spent + pace * left / 86_400
    elapsed = Decimal((at - running.start).total_seconds())
    return spent + spent / elapsed * left if elapsed > 0 else None
