"""Budgets as rows of the ledger: read, written, and how each stands at a moment.

A row has the figures of a `[[budget]]` in a file of limits, and is checked as one. What is spent of it is read from the
rollups where they can say it, else from the calls.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from spanledger.guard import log
from spanledger.limits.documents import PolicyError, budget, policy
from spanledger.limits.policy import Budget, Policy, Rule
from spanledger.limits.windows import Window, window
from spanledger_clickhouse.database import DatabaseError, reason
from spanledger_clickhouse.ledger import Ledger

SEVERAL: Final = "several"
"""The scope of a budget of more than one dimension."""
COLUMN_OF: Final = {"tenant": "tenant_id", "tier": "customer_tier", "feature": "feature", "user": "user_id"}
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

ROWS: Final = """
SELECT name, scope, key, dimensions, per, period, zone, amount_usd, action, at, thresholds, fail_closed
FROM budgets FINAL ORDER BY name
"""
RULES: Final = """
SELECT feature, downgrade, pinned, critical, max_input_tokens, max_output_tokens FROM feature_rules FINAL ORDER BY feature
"""


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


# --- rows ---------------------------------------------------------------------------------------------------


def document(ledger: Ledger) -> tuple[dict[str, Any], list[str]]:
    """All budgets and rules of features, in the form that `documents.policy` reads, and what is wrong with rows that are
    left out because they make no sense. Raises DatabaseError."""
    wrong: list[str] = []
    budgets = [_described(*row) for row in ledger.query(ROWS).rows]
    features = {feature: _rule(*rest) for feature, *rest in ledger.query(RULES).rows}
    return {
        "budget": [each for each in budgets if _makes_sense({"budget": [each]}, f"budget {each['name']!r}", wrong)],
        "features": {name: each for name, each in features.items() if _makes_sense({"features": {name: each}}, f"feature {name!r}", wrong)},
    }, wrong  # fmt: skip


def _makes_sense(found: dict[str, Any], name: str, wrong: list[str]) -> bool:
    try:
        policy(found, name)
    except PolicyError as error:
        wrong.append(f"{error}; mend it with `spanledger budget`, or remove it")
        return False
    return True


def read(ledger: Ledger) -> Policy:
    """All budgets and rules of the ledger; rows that make no sense are left out, and logged. Raises DatabaseError."""
    found, wrong = document(ledger)
    complain(wrong)
    return policy(found, "the table budgets")


def complain(wrong: list[str]) -> None:
    """Log what makes no sense, each once in this process."""
    for each in wrong:
        if each not in _complained:
            _complained.add(each)
            log.error("%s", each)


_complained: Final = set[str]()


def as_json(found: dict[str, Any]) -> str:
    """A document as it is published: the same budgets are the same text."""
    return json.dumps(found, sort_keys=True, default=str)


def _described(
    name: str,
    scope: str,
    key: str,
    dimensions: dict[str, str],
    per: str,
    period: str,
    zone: str,
    amount: Decimal,
    action: str,
    at: Decimal | None,
    thresholds: list[float],
    fail_closed: int,
) -> dict[str, Any]:
    of = dict(dimensions) if scope == SEVERAL else {} if scope == "global" else {scope: key}
    found: dict[str, Any] = {
        "name": name, "window": period, "amount_usd": format(amount, "f"), "per": per, "zone": zone, "action": action,
        "thresholds": list(thresholds), "fail_closed": bool(fail_closed),
    }  # fmt: skip
    if of:
        found["scope"] = of
    if at is not None:
        found["at"] = float(at)
    return found


def _rule(downgrade: dict[str, str], pinned: int, critical: int, most_in: int | None, most_out: int | None) -> Any:
    found: dict[str, Any] = {"downgrade": dict(downgrade), "pinned": bool(pinned), "critical": bool(critical)}
    caps = {"max_input_tokens": most_in, "max_output_tokens": most_out}
    return found | {name: cap for name, cap in caps.items() if cap}


def put(ledger: Ledger, found: Budget, *, deleted: bool = False) -> None:
    """Write a budget; one of the same name is changed. Raises DatabaseError."""
    scope, key = next(iter(found.scope.items())) if len(found.scope) == 1 else ("global", "")
    row = [
        found.name,
        SEVERAL if len(found.scope) > 1 else scope,
        key,
        dict(found.scope) if len(found.scope) > 1 else {},
        found.per,
        found.window,
        str(found.zone),
        Decimal(found.amount_picousd).scaleb(-12),
        found.action,
        found.at,
        list(found.thresholds),
        int(found.fail_closed),
        int(deleted),
    ]
    columns = ["name", "scope", "key", "dimensions", "per", "period", "zone", "amount_usd", "action", "at", "thresholds", "fail_closed", "is_deleted"]  # fmt: skip
    insert(ledger, "budgets", columns, [row])


def put_rule(ledger: Ledger, feature: str, rule: Rule, *, deleted: bool = False) -> None:
    """Write what holds for a feature. Raises DatabaseError."""
    caps = [rule.max_input_tokens, rule.max_output_tokens]
    row = [feature, dict(rule.downgrade), int(rule.pinned), int(rule.critical), *caps, int(deleted)]
    columns = ["feature", "downgrade", "pinned", "critical", "max_input_tokens", "max_output_tokens", "is_deleted"]
    insert(ledger, "feature_rules", columns, [row])


def insert(ledger: Ledger, table: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Add rows to a table of the ledger. Raises DatabaseError."""
    from clickhouse_connect.driver.exceptions import Error

    try:
        ledger.client.insert(f"`{ledger.where.database}`.{table}", rows, column_names=columns)
    except Error as error:
        raise DatabaseError(f"writing to {table} failed: {reason(error)}") from error


def described(name: str, **fields: Any) -> Budget:
    """A budget from what a person says of it.

    Raises:
        DatabaseError: it makes no sense; the message says what would.
    """
    try:
        return budget(
            {"name": name, **{key: value for key, value in fields.items() if value not in (None, {})}},
            f"budget {name!r}",
        )
    except PolicyError as error:
        raise DatabaseError(str(error)) from error


def fields(found: Budget) -> dict[str, Any]:
    """What `described` makes the same budget of."""
    made: dict[str, Any] = {
        "amount_usd": Decimal(found.amount_picousd).scaleb(-12),
        "scope": dict(found.scope),
        "per": found.per,
        "window": found.window,
        "zone": str(found.zone),
        "action": found.action,
        "fail_closed": found.fail_closed,
        "thresholds": list(found.thresholds),
    }
    return made if found.at is None else {**made, "at": found.at}


def with_amount(found: Budget, amount: Decimal) -> Budget:
    """The budget with another amount, in USD. Raises DatabaseError where that is no amount of a budget."""
    return described(found.name, **fields(found) | {"amount_usd": amount})


# --- how they stand -----------------------------------------------------------------------------------------


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
