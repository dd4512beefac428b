"""Rebuilds rollups from the calls, one day at a time, and swaps each day in atomically.

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
from spanledger_clickhouse.database.statements import statement, with_meter_sums

ROLLUP_NAMES: Final = ("llm_costs_1h", "llm_costs_1d", "llm_costs_1d_user", "llm_quantiles_1h")
OVERLAP: Final = timedelta(minutes=10)
"""Rows that arrived this long before the last run are checked again: an insert may become visible late."""
STALE_STAGE_AGE: Final = timedelta(hours=1)


@dataclass
class RebuildReport:
    """Days that a run rebuilt or skipped."""

    days: list[date] = field(default_factory=list[date])
    skipped_days: list[date] = field(default_factory=list[date])
    """Days whose calls have expired (TTL): their rollups stay unchanged."""


@dataclass(frozen=True)
class RollupDifference:
    """A day on which a rollup differs from the calls."""

    rollup: str
    day: date
    calls: tuple[int, int]
    """In the rollup, in the table of calls."""
    cost_usd: tuple[Any, Any]


@cache
def select(name: str) -> str:
    """The SELECT of a rollup, with placeholders {db} and {window}."""
    text = (resources.files("spanledger_clickhouse") / "rollups" / f"{name}.sql").read_text(encoding="utf-8")
    return with_meter_sums(text).strip()


class Rollups:
    """The rollups of one ledger."""

    def __init__(self, client: Any, target: Target) -> None:
        """`client`: an open connection whose schema is in place."""
        self._client = client
        self._db = f"`{target.database}`"
        self._target = target

    def refresh(
        self, now: datetime | None = None, progress: Callable[[int, int], None] = lambda _, __: None
    ) -> RebuildReport:
        """Rebuild the days whose calls have changed since the last run.

        Args:
            now: time of the run, UTC; calls of the current hour are left out of the rollups.
            progress: called with (days done, days in total).

        Raises:
            DatabaseError: ClickHouse refused a step; completed days are kept, and the next run continues.
        """
        from clickhouse_connect.driver.exceptions import Error

        report = RebuildReport()
        try:
            moment: datetime = self._scalar("SELECT now64(3, 'UTC')")
            closed = (now or moment).replace(minute=0, second=0, microsecond=0)
            days = self._dirty_days(closed)
            self._drop_stale_stages()
            for number, day in enumerate(days):
                self.rebuild(day, closed, report)
                progress(number + 1, len(days))
            self._client.insert(
                f"{self._db}.rollup_state", [["rollups", moment]], column_names=["name", "seen_until"],
                column_type_names=["LowCardinality(String)", "DateTime64(3, 'UTC')"],
            )  # fmt: skip
        except Error as error:
            raise DatabaseError(
                f"rebuilding the rollups of {self._target.masked_dsn} failed: {reason(error)}"
            ) from error
        return report

    def _dirty_days(self, closed: datetime) -> list[date]:
        """Days with new calls, oldest first."""
        last_run = self._scalar(f"SELECT max(seen_until) FROM {self._db}.rollup_state WHERE name = 'rollups'")
        since = max(last_run - OVERLAP, datetime(1970, 1, 1, tzinfo=UTC))
        response = self._client.query(
            statement("rollups/days_with_new_calls", db=self._db),
            parameters={"since": since, "closed": closed},
        )
        days = {row[0] for row in response.result_rows}
        # Hours that were open at the last run are closed now: their calls may have arrived long before this run.
        open_then = self._client.query(
            statement("rollups/days_closed_since", db=self._db),
            parameters={"closed": closed},
        )
        return sorted(days | {row[0] for row in open_then.result_rows})

    def rebuild(self, day: date, closed: datetime, report: RebuildReport, *, shrink: bool = False) -> None:
        """Rebuild every rollup of one day; with fewer calls than before only if `shrink` allows it."""
        until = min(closed, datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1))
        stamp = f"toDateTime('{until:%Y-%m-%d %H:%M:%S}', 'UTC')"
        window = f"c.start_time >= toDateTime('{day} 00:00:00', 'UTC') AND c.start_time < {stamp}"
        stages: dict[str, str] = {}
        try:
            for name in ROLLUP_NAMES:
                stage = stages[name] = f"{name}_stage_{secrets.token_hex(4)}"
                partition = "toDate(bucket)" if name.endswith("1h") else "bucket"
                tables = {"stage": f"{self._db}.{stage}", "rollup": f"{self._db}.{name}"}
                self._client.command(
                    statement("rollups/create_stage", **tables, partition=partition, key=self._sorting_key(name))
                )
                query = select(name).replace("{db}", self._db).replace("{window}", window)
                self._client.command(f"INSERT INTO {self._db}.{stage} SELECT *, {stamp} FROM ({query})")
            if not shrink and self._has_fewer_calls(day, stages["llm_costs_1h"]):
                report.skipped_days.append(day)
                return
            for name in ROLLUP_NAMES:
                self._client.command(
                    f"ALTER TABLE {self._db}.{name} REPLACE PARTITION '{day}' FROM {self._db}.{stages[name]}"
                )
            report.days.append(day)
        finally:
            for stage in stages.values():
                self._client.command(f"DROP TABLE IF EXISTS {self._db}.{stage}")

    def _sorting_key(self, name: str) -> str:
        key = self._scalar(
            f"SELECT sorting_key FROM system.tables WHERE database = '{self._target.database}' AND name = '{name}'"
        )
        return f"({key})"

    def _has_fewer_calls(self, day: date, stage: str) -> bool:
        """Whether the rollup has more calls than the table: calls are never deleted, but expire."""
        ours, theirs = (
            self._scalar(f"SELECT sum(calls) FROM {self._db}.{table} WHERE toDate(bucket) = '{day}'")
            for table in ("llm_costs_1h", stage)
        )
        return theirs < ours

    def _drop_stale_stages(self) -> None:
        """Drop stage tables that a crashed run left behind."""
        response = self._client.query(
            statement("rollups/stale_stages"),
            parameters={"db": self._target.database, "age": int(STALE_STAGE_AGE.total_seconds())},
        )
        for (name,) in response.result_rows:
            self._client.command(f"DROP TABLE IF EXISTS {self._db}.{name}")

    def differences(self) -> list[RollupDifference]:
        """Days on which a rollup differs from the calls; days whose calls have expired are left out.

        Raises:
            DatabaseError: ClickHouse refused the query.
        """
        from clickhouse_connect.driver.exceptions import Error

        differences: list[RollupDifference] = []
        try:
            for name in ROLLUP_NAMES:
                differences += self._differences(name)
        except Error as error:
            raise DatabaseError(
                f"comparing the rollups of {self._target.masked_dsn} failed: {reason(error)}"
            ) from error
        return differences

    def _differences(self, name: str) -> list[RollupDifference]:
        priced = "sum(r.cost_usd)" if name != "llm_quantiles_1h" else "toDecimal128(0, 12)"
        facts = "sum(ifNull(c.cost_usd, 0))" if name != "llm_quantiles_1h" else "toDecimal128(0, 12)"
        query = statement("rollups/differences", db=self._db, rollup=name, priced=priced, facts=facts)
        rows: Sequence[Any] = self._client.query(query).result_rows
        return [RollupDifference(name, row[0], (row[1], row[2]), (row[3], row[4])) for row in rows]

    def repair(self, days: Sequence[date], *, shrink: bool = False) -> RebuildReport:
        """Rebuild days, whether or not their calls have changed.

        Args:
            days: the days to rebuild.
            shrink: also rebuild days with fewer calls than the rollup has (expired calls, or a wrong rollup).

        Raises:
            DatabaseError: ClickHouse refused a step.
        """
        from clickhouse_connect.driver.exceptions import Error

        report = RebuildReport()
        try:
            closed = self._scalar("SELECT toStartOfHour(now('UTC'))")
            for day in sorted(set(days)):
                self.rebuild(day, closed, report, shrink=shrink)
        except Error as error:
            raise DatabaseError(
                f"repairing the rollups of {self._target.masked_dsn} failed: {reason(error)}"
            ) from error
        return report

    def _scalar(self, query: str) -> Any:
        return self._client.query(query).result_rows[0][0]
