"""Spend by any dimensions, with any filters: the question of `spanledger spend` and of the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from spanledger.semconv.dimensions import BY_LABEL
from spanledger_clickhouse.database.ledger import Ledger, Result
from spanledger_clickhouse.database.statements import statement

EXPRESSIONS: Final = {
    **{label: f"nullIf(toString(c.{dimension.column}), '')" for label, dimension in BY_LABEL.items()},
    "team": statement("assignments/team"),
    "project": statement("assignments/project"),
    "model": "c.model",
    "provider": "toString(c.provider)",
    "service": "toString(c.service)",
    "environment": "nullIf(toString(c.environment), '')",
    "evidence": "c.evidence",
    "agent": "nullIf(c.attributes['gen_ai.agent.name'], '')",
    "workflow": "nullIf(c.attributes['gen_ai.workflow.name'], '')",
    "day": "toDate(c.start_time)",
    "hour": "toStartOfHour(c.start_time)",
}
"""What spend can be grouped by -> its SQL."""
ASSIGNED: Final = ("team", "project")
"""What rules say of calls that do not say it themselves (`spanledger assign`)."""
ROLLED_UP: Final = frozenset({"feature", "provider", "model", "service", "environment", "day", "hour"})
"""Dimensions of `llm_costs`, with the names that calls have."""
TIMES: Final = ("day", "hour")
SORTS: Final = {
    "cost": "total_cost_usd DESC NULLS LAST",
    "calls": "calls DESC",
    "tokens": "tokens DESC",
    "mean": "mean_cost_usd DESC NULLS LAST",
}
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2148
"""ClickHouse's dates, but for the year in which they end."""
FIRST: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Before any call."""
ALL_TIMES: Final = 1_000_000
"""Rows by day or hour, where no number is given: all."""


class Query(NamedTuple):
    """A statement and its parameters."""

    text: str
    parameters: dict[str, Any]

    def literal(self) -> str:
        """The statement with its parameters in it, to be copied."""
        text = re.sub(
            r"\A(--[^\n]*\n)+", "", self.text
        )  # a comment at the begin looks like an option on a command line
        return re.sub(r"\{(\w+):([^{}]+)\}", lambda match: _literal(self.parameters[match[1]], match[2]), text)


def _literal(value: Any, kind: str) -> str:
    if isinstance(value, datetime):
        value = f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, int | float | Decimal):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'" if kind == "String" else f"CAST('{text}', '{kind.replace(chr(39), chr(92) + chr(39))}')"


class Total(NamedTuple):
    """All calls of a question."""

    cost_usd: Decimal | None
    calls: int
    unpriced_calls: int
    unattributed_cost_usd: Decimal | None
    unattributed_calls: int
    avoided_cost_usd: Decimal | None
    cache_hits: int


@dataclass(frozen=True)
class Scope:
    """Which calls are asked for.

    Attributes:
        database: of the ledger.
        since: begin, inclusive; None: all time.
        until: end, exclusive.
        conditions: (dimension of `EXPRESSIONS`, the value that it has; "" for none); several of one dimension are alternatives.
    """

    database: str
    since: datetime | None
    until: datetime
    conditions: Sequence[tuple[str, str]] = ()

    @property
    def begin(self) -> datetime:
        return self.since or FIRST

    def joins(self, by: Sequence[str] = ()) -> str:
        """What the expressions need beside the calls `c`."""
        is_assigned = any(name in ASSIGNED for name in (*by, *(name for name, _ in self.conditions)))
        return statement("assignments/joined", db=f"`{self.database}`") if is_assigned else ""

    @property
    def filters(self) -> str:
        """Conditions on the calls `c`, each after an AND; several values of one dimension are alternatives."""
        values: dict[str, list[str]] = {}
        for number, (name, _) in enumerate(self.conditions):
            values.setdefault(name, []).append(f"{{w{number}:String}}")
        return "".join(
            f" AND ifNull(toString({EXPRESSIONS[name]}), '') IN ({', '.join(places)})"
            for name, places in values.items()
        )

    @property
    def parameters(self) -> dict[str, Any]:
        values = {f"w{number}": value for number, (_, value) in enumerate(self.conditions)}
        return {"since": self.begin, "until": self.until, **values}

    def is_rolled_up(self, by: Sequence[str] = ()) -> bool:
        """Whether the rollup of hours knows the answer: the question of a large ledger then takes less than a second."""
        dimensions = {*by, *(name for name, _ in self.conditions)}
        is_whole = self.begin.timestamp() % 3600 == 0
        is_open = self.until.timestamp() % 3600 == 0 or self.until >= datetime.now(UTC) - timedelta(minutes=1)
        return is_whole and is_open and dimensions <= ROLLED_UP

    def total(self, ledger: Ledger, *, rolled_up: bool = False) -> Total:
        """Raises DatabaseError.

        Args:
            ledger: an open ledger.
            rolled_up: from the rollup of hours, where it knows the answer; what caches have avoided is not in it.
        """
        name = "cli/total_rollup" if rolled_up and self.is_rolled_up() else "cli/total"
        query = statement(name, joins=self.joins(), filters=self.filters)
        return Total(*ledger.query(query, self.parameters).rows[0])

    def by(
        self,
        by: Sequence[str],
        *,
        compare: bool = False,
        sort: str = "cost",
        top: int | None = None,
        rolled_up: bool = False,
    ) -> Query:
        """The question of what was spent by dimensions, highest first, or by time, latest first.

        Args:
            by: names of `EXPRESSIONS`.
            compare: with the cost of the period before (`period_before`); not by time, where no row has one.
            sort: a name of `SORTS`; by time it does not count.
            top: how many rows; default: 20, or all if it is by time.
            rolled_up: from the rollup of hours, where it knows the answer: fast, but late rows are in it only after
                `spanledger rollup`, and a mean is over calls that have a price or were not billed.
        """
        columns = [column_of(name) for name in by]
        is_by_time = by[0] in TIMES
        groups = [f"`{column}`" for column in columns]
        order = (
            [f"{group}{' DESC' * (name in TIMES)}" for name, group in zip(by, groups, strict=True)]
            if is_by_time
            else [SORTS[sort], *groups]
        )
        text = statement(
            "cli/spend_rollup" if rolled_up and self.is_rolled_up(by) else "cli/spend",
            names=", ".join(f"{EXPRESSIONS[name]} AS {group}" for name, group in zip(by, groups, strict=True)),
            groups=", ".join(groups),
            compared=statement("cli/spend_compared") if compare else "",
            also=" OR previous_cost_usd > 0" if compare else "",
            joins=self.joins(by),
            filters=self.filters,
            order=", ".join(order),
        )
        before, before_until = period_before(self.begin, self.until) if compare else (self.begin, self.begin)
        limit = top or (ALL_TIMES if is_by_time else 20)
        return Query(text, {**self.parameters, "before": before, "before_until": before_until, "limit": limit})


def period_before(since: datetime, until: datetime, now: datetime | None = None) -> tuple[datetime, datetime]:
    """What a period is compared with: a month, or what has passed of it, with the month before, or as much of that; any other
    period with one before it that is as long."""
    next_month = (since + timedelta(days=32)).replace(day=1)
    if since != since.replace(day=1, hour=0, minute=0, second=0, microsecond=0) or until > next_month:
        return since - (until - since), since
    month_before = (since - timedelta(days=1)).replace(day=1)
    end = min(until, now or datetime.now(UTC))
    return month_before, since if end == next_month else min(since, month_before + (end - since))


def column_of(name: str) -> str:
    """The column that shows a dimension."""
    return BY_LABEL[name].column if name in BY_LABEL else name


def spent(ledger: Ledger, query: Query, by: Sequence[str]) -> Result:
    """The rows of `Scope.by`; by time in its order. Raises DatabaseError."""
    result = ledger.query(query.text, query.parameters)
    return replace(result, rows=result.rows[::-1]) if by[0] in TIMES else result
