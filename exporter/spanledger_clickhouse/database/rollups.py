"""Rollups: rebuilt from the calls, day by day, and swapped in whole; never incremented.

A day is dirty when calls of that day have arrived since the last run. It is computed anew from `llm_calls FINAL` into a
stage table and takes the place of the old day by `REPLACE PARTITION`, which is atomic: redelivery, late rows, new prices
and repaired attribution need no code of their own, and a run that dies at any step leaves whole days behind it. Each
day says up to which hour it is closed (`closed_until`); the views `llm_costs*` take what is later from the calls.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib import resources
from typing import Any, Final

from spanledger_clickhouse.database.connection import DatabaseError, Target, reason

NAMES: Final = ("llm_costs_1h", "llm_costs_1d", "llm_costs_1d_user", "llm_quantiles_1h")
OVERLAP: Final = timedelta(minutes=10)
"""Rows that arrived this long before the last run are looked at again: an insert may be seen after its time stamp."""
STALE_STAGE: Final = timedelta(hours=1)


@dataclass
class Rebuilt:
    """What a run did."""

    days: list[date] = field(default_factory=list[date])
    skipped_days: list[date] = field(default_factory=list[date])
    """Days whose calls are gone (a TTL): their rollups stay as they are."""


@dataclass(frozen=True)
class Difference:
    """A day on which a rollup does not say what the calls say."""

    rollup: str
    day: date
    calls: tuple[int, int]
    """In the rollup, in the table of calls."""
    cost_usd: tuple[Any, Any]


@cache
def select(name: str) -> str:
    """The SELECT that makes a rollup, with places {db} and {window}."""
    return (resources.files("spanledger_clickhouse") / "rollups" / f"{name}.sql").read_text(encoding="utf-8").strip()


class Rollups:
    """The rollups of one ledger."""

    def __init__(self, client: Any, target: Target) -> None:
        """`client`: an open connection whose schema is in place."""
        self._client = client
        self._db = f"`{target.database}`"
        self._where = target

    def refresh(
        self, now: datetime | None = None, progress: Callable[[int, int], None] = lambda _, __: None
    ) -> Rebuilt:
        """Rebuild the days whose calls have changed since the last run.

        Args:
            now: the moment of the run, UTC; calls of the hour that is under way stay out of the rollups.
            progress: told (days done, days in all).

        Raises:
            DatabaseError: ClickHouse refused a step; what is done stays, the next run takes up the rest.
        """
        from clickhouse_connect.driver.exceptions import Error

        report = Rebuilt()
        try:
            moment: datetime = self._one("SELECT now64(3, 'UTC')")
            closed = (now or moment).replace(minute=0, second=0, microsecond=0)
            days = self._dirty(closed)
            self._sweep()
            for number, day in enumerate(days):
                self.rebuild(day, closed, report)
                progress(number + 1, len(days))
            self._client.insert(
                f"{self._db}.rollup_state", [["rollups", moment]], column_names=["name", "seen_until"],
                column_type_names=["LowCardinality(String)", "DateTime64(3, 'UTC')"],
            )  # fmt: skip
        except Error as error:
            raise DatabaseError(f"rebuilding the rollups of {self._where.shown} failed: {reason(error)}") from error
        return report

    def _dirty(self, closed: datetime) -> list[date]:
        """Days with news, oldest first."""
        last_run = self._one(f"SELECT max(seen_until) FROM {self._db}.rollup_state WHERE name = 'rollups'")
        since = max(last_run - OVERLAP, datetime(1970, 1, 1, tzinfo=UTC))
        response = self._client.query(
            f"SELECT DISTINCT toDate(start_time) AS day FROM {self._db}.llm_calls "
            "WHERE inserted_at >= {since:DateTime64(3, 'UTC')} AND start_time < {closed:DateTime('UTC')} ORDER BY day",
            parameters={"since": since, "closed": closed},
        )
        days = {row[0] for row in response.result_rows}
        # Hours that were open at the last run are closed now: their calls may have come long before this one.
        open_then = self._client.query(
            f"SELECT DISTINCT toDate(start_time) AS day FROM {self._db}.llm_calls WHERE start_time < {{closed:DateTime('UTC')}} "
            f"AND start_time >= (SELECT max(closed_until) FROM {self._db}.llm_costs_1h WHERE bucket = "
            f"(SELECT max(bucket) FROM {self._db}.llm_costs_1h))",
            parameters={"closed": closed},
        )
        return sorted(days | {row[0] for row in open_then.result_rows})

    def rebuild(self, day: date, closed: datetime, report: Rebuilt, *, shrink: bool = False) -> None:
        """Make every rollup of one day anew; with fewer calls than before only where `shrink` allows it."""
        until = min(closed, datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1))
        stamp = f"toDateTime('{until:%Y-%m-%d %H:%M:%S}', 'UTC')"
        window = f"c.start_time >= toDateTime('{day} 00:00:00', 'UTC') AND c.start_time < {stamp}"
        stages: dict[str, str] = {}
        try:
            for name in NAMES:
                stage = stages[name] = f"{name}_stage_{secrets.token_hex(4)}"
                self._client.command(
                    f"CREATE TABLE {self._db}.{stage} AS {self._db}.{name} ENGINE = MergeTree "
                    f"PARTITION BY {'toDate(bucket)' if name.endswith('1h') else 'bucket'} "
                    f"ORDER BY {self._key(name)}"
                )
                query = select(name).replace("{db}", self._db).replace("{window}", window)
                self._client.command(f"INSERT INTO {self._db}.{stage} SELECT *, {stamp} FROM ({query})")
            if not shrink and self._shrunk(day, stages["llm_costs_1h"]):
                report.skipped_days.append(day)
                return
            for name in NAMES:
                self._client.command(
                    f"ALTER TABLE {self._db}.{name} REPLACE PARTITION '{day}' FROM {self._db}.{stages[name]}"
                )
            report.days.append(day)
        finally:
            for stage in stages.values():
                self._client.command(f"DROP TABLE IF EXISTS {self._db}.{stage}")

    def _key(self, name: str) -> str:
        key = self._one(
            f"SELECT sorting_key FROM system.tables WHERE database = '{self._where.database}' AND name = '{name}'"
        )
        return f"({key})"

    def _shrunk(self, day: date, stage: str) -> bool:
        """Whether the rollup knows of more calls than there are: calls are never deleted, but expire."""
        ours, theirs = (
            self._one(f"SELECT sum(calls) FROM {self._db}.{table} WHERE toDate(bucket) = '{day}'")
            for table in ("llm_costs_1h", stage)
        )
        return theirs < ours

    def _sweep(self) -> None:
        """Drop what a run that died left behind."""
        response = self._client.query(
            "SELECT name FROM system.tables WHERE database = {db:String} AND match(name, '_stage_[0-9a-f]{8}$') "
            f"AND metadata_modification_time < now() - {int(STALE_STAGE.total_seconds())}",
            parameters={"db": self._where.database},
        )
        for (name,) in response.result_rows:
            self._client.command(f"DROP TABLE IF EXISTS {self._db}.{name}")

    def differences(self) -> list[Difference]:
        """Days on which a rollup and the calls disagree; days whose calls have expired are left out.

        Raises:
            DatabaseError: ClickHouse refused the question.
        """
        from clickhouse_connect.driver.exceptions import Error

        differences: list[Difference] = []
        try:
            for name in NAMES:
                differences += self._differences(name)
        except Error as error:
            raise DatabaseError(f"comparing the rollups of {self._where.shown} failed: {reason(error)}") from error
        return differences

    def _differences(self, name: str) -> list[Difference]:
        priced = "sum(r.cost_usd)" if name != "llm_quantiles_1h" else "toDecimal128(0, 12)"
        facts = "sum(ifNull(c.cost_usd, 0))" if name != "llm_quantiles_1h" else "toDecimal128(0, 12)"
        rows: Sequence[Any] = self._client.query(f"""
            WITH
                kept AS (
                    SELECT toDate(r.bucket) AS day, sum(r.calls) AS calls, {priced} AS cost, max(r.closed_until) AS until
                    FROM {self._db}.{name} AS r GROUP BY day
                ),
                facts AS (
                    SELECT toDate(c.start_time) AS day, count() AS calls, {facts} AS cost
                    FROM {self._db}.llm_calls AS c FINAL LEFT JOIN kept AS k ON k.day = toDate(c.start_time)
                    WHERE k.until = toDateTime(0, 'UTC') OR c.start_time < k.until
                    GROUP BY day
                )
            SELECT f.day, k.calls, f.calls, k.cost, f.cost
            FROM facts AS f LEFT JOIN kept AS k ON k.day = f.day
            WHERE (k.calls != f.calls OR k.cost != f.cost) AND (k.calls > 0 OR f.day < (SELECT max(day) FROM kept))
            ORDER BY f.day""").result_rows
        return [Difference(name, row[0], (row[1], row[2]), (row[3], row[4])) for row in rows]

    def repair(self, days: Sequence[date], *, shrink: bool = False) -> Rebuilt:
        """Rebuild days, whether anything is known to have changed or not.

        Args:
            days: which.
            shrink: also where fewer calls are left than the rollup has counted (they have expired, or it is wrong).

        Raises:
            DatabaseError: ClickHouse refused a step.
        """
        from clickhouse_connect.driver.exceptions import Error

        report = Rebuilt()
        try:
            closed = self._one("SELECT toStartOfHour(now('UTC'))")
            for day in sorted(set(days)):
                self.rebuild(day, closed, report, shrink=shrink)
        except Error as error:
            raise DatabaseError(f"repairing the rollups of {self._where.shown} failed: {reason(error)}") from error
        return report

    def _one(self, query: str) -> Any:
        return self._client.query(query).result_rows[0][0]
