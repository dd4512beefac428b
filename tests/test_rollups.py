"""Rollups equal the sums of their calls: with late, duplicate and corrected rows, and after interrupted runs."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from clickhouse_connect.driver.exceptions import DatabaseError as ClickHouseError

from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert as writer
from spanledger_clickhouse.database import migrations
from spanledger_clickhouse.database.connection import DatabaseError, Target, open_client, resolve_target
from spanledger_clickhouse.database.rollups import Rollups, select
from spanledger_clickhouse.rows.rows import Contents
from spanledger_clickhouse.ship import sinks
from synthetic import call

pytestmark = pytest.mark.clock

NOW = datetime(2026, 3, 10, 14, 30, tzinfo=UTC)


@pytest.fixture
def ledger(embedded: tuple[Any, Target]) -> tuple[Any, Target]:
    return embedded


def some(count: int, seed: int = 1, *, days: int = 5) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [
        call(
            start_time=NOW - timedelta(minutes=chance.randrange(days * 1440)),
            trace_id=f"{seed:08x}{number:024x}", span_id=f"{seed:04x}{number:012x}",
            feature=chance.choice(["chat", "search", None]), user_id=chance.choice(["ada", "bob", None]),
            cost_usd=chance.choice([Decimal(chance.randrange(10**10)).scaleb(-12), None]),
        )
        for number in range(count)
    ]  # fmt: skip


def insert(ledger: tuple[Any, Target], rows: list[dict[str, Any]]) -> None:
    client, where = ledger
    writer.insert(client, where, [tuple(row.values()) for row in rows])


def sums(ledger: tuple[Any, Target], table: str) -> tuple[int, Decimal]:
    client, where = ledger
    found = client.query(f"SELECT sum(calls), sum(cost_usd) FROM `{where.database}`.{table}").result_rows[0]
    return found[0], found[1]


def truth(rows: list[dict[str, Any]]) -> tuple[int, Decimal]:
    return len(rows), sum((row["cost_usd"] or Decimal(0) for row in rows), Decimal(0))


VIEWS = ("llm_costs", "llm_costs_daily", "llm_costs_users")


def test_views_are_correct_before_between_and_after_rollup_runs(ledger):
    rollups = Rollups(*ledger)
    rows = some(500)
    insert(ledger, rows)
    assert {sums(ledger, view) for view in VIEWS} == {truth(rows)}
    done = rollups.refresh(NOW)
    assert len(done.days) in (5, 6)
    closed = [row for row in rows if row["start_time"] < NOW.replace(minute=0)]
    assert sums(ledger, "llm_costs_1h") == truth(closed)
    assert {sums(ledger, view) for view in VIEWS} == {truth(rows)}
    later = some(50, seed=2, days=1)
    fresh = [row for row in later if row["start_time"] >= NOW.replace(minute=0)]
    insert(ledger, fresh)
    assert {sums(ledger, view) for view in VIEWS} == {truth(rows + fresh)}
    assert rollups.differences() == []


def test_a_day_without_calls_is_not_skipped(ledger):
    """The only call of a day arrives in an hour that is still open: the runs of the next day include it."""
    client, where = ledger
    rollups = Rollups(client, where)
    first, quiet, next_day = (
        call(start_time=datetime(2026, 3, day, 9, 55, tzinfo=UTC), trace_id=f"{day:032x}", cost_usd=Decimal(day))
        for day in (8, 9, 10)
    )
    insert(ledger, [first])
    rollups.refresh(datetime(2026, 3, 9, 0, 5, tzinfo=UTC))
    insert(ledger, [quiet])
    rollups.refresh(datetime(2026, 3, 9, 9, 59, tzinfo=UTC))  # its hour is open
    client.insert(  # an hour later its arrival is too old to be checked
        f"`{where.database}`.rollup_state", [["rollups", datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)]],
        column_names=["name", "seen_until", "at"],
    )  # fmt: skip
    insert(ledger, [next_day])
    rollups.refresh(datetime(2026, 3, 10, 11, tzinfo=UTC))
    assert {sums(ledger, view) for view in VIEWS} == {truth([first, quiet, next_day])}
    assert rollups.differences() == []


def test_redelivered_late_and_corrected_rows(ledger):
    rollups = Rollups(*ledger)
    rows = some(300)
    insert(ledger, rows)
    rollups.refresh(NOW)
    insert(ledger, rows[:100])  # again, in another batch
    late = [
        call(start_time=datetime(2025, month, 1, tzinfo=UTC), trace_id=f"{month:032x}", cost_usd=Decimal(month))
        for month in (9, 3, 6)
    ]
    insert(ledger, late)
    corrected = [{**row, "cost_usd": Decimal("0.5"), "feature": "moved"} for row in rows[:20]]
    insert(ledger, corrected)
    rollups.refresh(NOW)
    expected = corrected + rows[20:] + late
    assert {sums(ledger, view) for view in VIEWS} == {truth(expected)}
    assert rollups.differences() == []


@pytest.mark.parametrize("step", [0, 4, 8, 10, 13])
def test_a_run_killed_at_any_step_leaves_whole_days(ledger, step: int):
    client, where = ledger
    rows = some(100, days=2)
    insert(ledger, rows)

    class Dying:
        """A client that dies at one of its commands."""

        commands = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def command(self, statement: str) -> Any:
            self.commands += 1
            if self.commands > step:
                raise MemoryError("killed")
            return client.command(statement)

    with pytest.raises(MemoryError):
        Rollups(Dying(), where).refresh(NOW)
    assert {sums(ledger, view) for view in VIEWS} == {truth(rows)}
    Rollups(client, where).refresh(NOW)
    assert {sums(ledger, view) for view in VIEWS} == {truth(rows)}


def test_verify_finds_and_repairs_differences(ledger, monkeypatch):
    client, where = ledger
    rows = some(100, days=3)
    insert(ledger, rows)
    rollups = Rollups(client, where)
    rollups.refresh(NOW)
    client.command(f"ALTER TABLE `{where.database}`.llm_costs_1d DROP PARTITION '2026-03-09'")
    client.command(
        f"ALTER TABLE `{where.database}`.llm_costs_1h UPDATE cost_usd = cost_usd + 1 WHERE toDate(bucket) = '2026-03-08' "
        "SETTINGS mutations_sync = 1"
    )
    found = {(each.rollup, each.day) for each in rollups.differences()}
    assert found == {("llm_costs_1h", date(2026, 3, 8)), ("llm_costs_1d", date(2026, 3, 9))}
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    shown = CliRunner().invoke(main, ["verify"])
    assert (shown.exit_code, "2026-03-08  llm_costs_1h" in shown.output) == (1, True)
    assert CliRunner().invoke(main, ["verify", "--repair"]).exit_code == 0
    assert CliRunner().invoke(main, ["verify"]).exit_code == 0
    assert "rebuilt" in CliRunner().invoke(main, ["rollup"]).output


def test_rollups_outlive_their_calls(ledger):
    client, where = ledger
    rows = some(100, days=3)
    insert(ledger, rows)
    rollups = Rollups(client, where)
    rollups.refresh(NOW)
    before = sums(ledger, "llm_costs_1h")
    client.command(f"TRUNCATE TABLE `{where.database}`.llm_calls")
    insert(ledger, [call(start_time=NOW - timedelta(days=1), trace_id="f" * 32)])
    done = rollups.refresh(NOW)
    assert done.skipped_days == [date(2026, 3, 9)]
    assert sums(ledger, "llm_costs_1h") == before


def test_sums_do_not_depend_on_the_number_of_threads(ledger):
    client, where = ledger
    rows = some(5000)
    insert(ledger, rows)
    query = f"SELECT sum(cost_usd), avg(cost_usd) FROM `{where.database}`.llm_calls FINAL SETTINGS max_threads = "
    assert len({tuple(client.query(query + str(threads)).result_rows[0]) for threads in (1, 2, 3, 8)}) == 1
    assert client.query(query + "2").result_rows[0][0] == truth(rows)[1]


# --- the schema ----------------------------------------------------------------------------------------------------


def test_an_older_schema_is_upgraded_with_its_data(tmp_path: Path, monkeypatch):
    where = resolve_target(f"chdb://{tmp_path / 'chdb'}")
    whole = migrations.migrations(where.database)
    first = [each for each in whole if each.name in ("schema/010_llm_calls.sql", "schema/020_ledger_events.sql")]
    rows = some(50)
    with open_client(where) as client:
        with monkeypatch.context() as older:
            older.setattr(migrations, "migrations", lambda database, servers: first)
            migrations.migrate(client, where)
        insert((client, where), rows)
        assert len(migrations.migrate(client, where)) == len(whole) - len(first)
        assert sums((client, where), "llm_costs") == truth(rows)
        codec = client.query(
            "SELECT compression_codec FROM system.columns WHERE table = 'llm_calls' AND name = 'cost_usd'"
        ).result_rows[0][0]
    assert "GCD" in codec


def test_every_earlier_schema_is_upgraded_with_its_data(tmp_path: Path, monkeypatch):
    """As after each release that added a file: the ledger holds rows, and only the schema up to that file."""
    where = resolve_target(f"chdb://{tmp_path / 'chdb'}")
    tables = [each.name for each in migrations.migrations("x") if each.name.startswith("schema/")]
    rows = some(20)
    with open_client(where) as client:
        for number in range(2, len(tables) + 1, 3):
            old = replace(where, database=f"release_{number}")
            whole = migrations.migrations(old.database)
            known = [each for each in whole if each.name in tables[:number]]
            with monkeypatch.context() as older:
                older.setattr(migrations, "migrations", lambda database, servers, known=known: known)
                migrations.migrate(client, old)
            insert((client, old), rows)
            assert len(migrations.migrate(client, old)) == len(whole) - len(known), tables[number - 1]
            assert sums((client, old), "llm_costs") == truth(rows), tables[number - 1]
            assert migrations.pending(client, old, whole=True) == []
            client.command(f"DROP DATABASE `{old.database}` SYNC")


def test_a_newer_schema_is_not_changed(ledger):
    client, where = ledger
    client.insert(
        f"`{where.database}`.schema_migrations", [["schema/999_future.sql", "x"]], column_names=["name", "checksum"]
    )
    with pytest.raises(DatabaseError, match=r"newer release of Spanledger .*pip install --upgrade spanledger"):
        migrations.migrate(client, where)


@pytest.mark.parametrize(
    "servers", [migrations.Topology("prod", True), migrations.Topology("", True)], ids=["cluster", "replicated"]
)
def test_the_same_files_produce_the_statements_for_a_cluster(ledger, servers: migrations.Topology):
    client, _ = ledger
    made = migrations.migrations("llm", servers)
    for migration in made:
        client.query(f"EXPLAIN AST {migration.statement}")
    text = "\n".join(each.statement for each in made)
    assert "{" not in text.replace("{uuid}", "").replace("{replica}", "").replace("{since:", "").replace(
        "{until:", ""
    ).replace("{as_of:", "")
    tables = [each.statement for each in made if "ENGINE = " in each.statement]
    assert all("Replicated" in each or "Distributed" in each for each in tables)
    if servers.cluster:
        assert all("ON CLUSTER 'prod'" in each.statement for each in made)
        assert "`llm`.llm_calls_local" in text
        assert "ALTER TABLE `llm`.llm_calls ON CLUSTER 'prod'" in text, "the front fills defaults of its own"
        assert "Distributed('prod', 'llm', 'llm_calls_local', cityHash64(trace_id))" in text


def test_a_refreshable_view_can_run_the_select_of_a_rollup(ledger):
    client, where = ledger
    rows = some(100)
    insert(ledger, rows)
    for migration in migrations.refreshable(where.database):
        client.command(migration.statement)
    database = where.database
    client.command(f"SYSTEM WAIT VIEW `{database}`.llm_costs_1h_refresh")
    assert sums(ledger, "llm_costs_1h") == truth(rows)
    assert {sums(ledger, view) for view in VIEWS} == {truth(rows)}


def test_every_rollup_has_a_select():
    assert all("{window}" in select(name) for name in ("llm_costs_1h", "llm_costs_1d", "llm_costs_1d_user"))


def test_old_calls_are_deleted_only_on_request(ledger, monkeypatch):
    client, where = ledger
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)

    def ttl() -> bool:
        query = "SELECT create_table_query LIKE '%TTL%400%' FROM system.tables WHERE name = 'llm_calls'"
        return bool(client.query(query).result_rows[0][0])

    assert not ttl()
    assert CliRunner().invoke(main, ["migrate", "--retention-days", "0"]).exit_code == 0
    assert CliRunner().invoke(main, ["migrate", "--retention-days", "400"]).exit_code == 0
    assert ttl()
    assert CliRunner().invoke(main, ["migrate", "--retention-days", "0"]).exit_code == 0
    assert not ttl()
    assert CliRunner().invoke(main, ["migrate", "--refreshable"]).exit_code == 0


# --- rights --------------------------------------------------------------------------------------------------------


def test_a_writer_that_may_only_insert_ships(ledger, monkeypatch):
    client, where = ledger

    def refused(*_: Any) -> None:
        error = ClickHouseError("Not enough privileges")
        error.code = 497
        raise DatabaseError("applying failed") from error

    monkeypatch.setattr(migrations, "migrate", refused)
    monkeypatch.setattr(migrations, "connect", lambda _: client)
    line = sinks.SpoolLine(b"", Contents([tuple(row.values()) for row in some(3)], []))
    sinks.ClickHouseSink(where).send([line])
    assert sums(ledger, "llm_costs")[0] == 3
