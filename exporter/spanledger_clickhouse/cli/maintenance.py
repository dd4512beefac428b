"""Maintenance commands: ship, migrate, rights, rollup, verify, reprice."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from spanledger.runtime import settings
from spanledger.spool.writer import SUFFIX
from spanledger_clickhouse.cli.output import (
    as_table,
    byte_progress,
    console,
    ledger,
    report_user_errors,
    show,
    spinner,
    step_progress,
)
from spanledger_clickhouse.database import grants, migrations
from spanledger_clickhouse.database.connection import DatabaseError, Target, open_client, resolve_target
from spanledger_clickhouse.database.ledger import Result
from spanledger_clickhouse.database.rollups import RebuildReport, Rollups
from spanledger_clickhouse.prices import repricing
from spanledger_clickhouse.printable import visible
from spanledger_clickhouse.rows.rows import EPOCH, MAX_TIMESTAMP_SECONDS
from spanledger_clickhouse.ship import dead_letters, shipper, sinks

ROLLUP_SECONDS: Final = 60.0


@click.command()
@click.option("--follow", is_flag=True, help="Keep shipping until interrupted (a sidecar).")
@click.option(
    "--every", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds between passes with --follow."
)
@click.option("--dead", is_flag=True, help="List the rows that were refused, and the reasons.")
@click.option("--retry", is_flag=True, help="With --dead: put them back into the spool and ship.")
@report_user_errors
def ship(follow: bool, every: float, dead: bool, retry: bool) -> None:
    """Send the rows that wait in the spool.

    Rows go to the Collector of SPANLEDGER_OTLP_ENDPOINT, else to the ClickHouse of SPANLEDGER_DSN, else to the
    embedded ledger. What cannot be sent stays in the spool; rows that are refused for good become dead letters (--dead).
    With --follow the rollups of a ClickHouse server are kept up to date as well.

    \b
    Examples:
      spanledger ship --follow
      spanledger ship --dead --retry
    """
    existing = [directory for directory in shipper.spool_directories(undecided=True) if directory.is_dir()]
    if dead and not sum(_show_or_requeue(directory, retry=retry) for directory in existing):
        return
    sink = sinks.sink_from_settings() or sinks.ClickHouseSink(resolve_target())
    pause = every
    rolled = 0.0
    while True:
        try:
            _ship_all(shipper.spool_directories(undecided=True), sink, is_quiet=follow)
            pause = every
            sink.on_idle()
            if follow and settings.setting("otlp_endpoint") is None and time.monotonic() - rolled > ROLLUP_SECONDS:
                rolled = time.monotonic()
                _refresh_rollups()
        except (DatabaseError, shipper.BusyError) as error:
            if not follow:
                raise
            pause = min(pause * 2, 60.0)
            click.echo(f"{error}; retrying in {pause:g} s", err=True)
        if not follow:
            sink.close()
            return
        time.sleep(pause)


def _ship_all(directories: list[Path], sink: sinks.Sink, *, is_quiet: bool) -> None:
    """Ship spools. One that another process is shipping does not keep the others from being shipped."""
    busy: shipper.BusyError | None = None
    for directory in directories:
        try:
            _ship_once(directory, sink, is_quiet=is_quiet or directory != directories[0])
        except shipper.BusyError as error:
            busy = error
    if busy is not None:
        raise busy


def _ship_once(directory: Path, sink: sinks.Sink, *, is_quiet: bool) -> None:
    """Ship a spool, and say what was shipped; `is_quiet`: only if it was something."""
    with byte_progress("shipping", shipper.waiting_bytes(directory)) as advance:
        shipment = shipper.drain(directory, sink, advance)
    refused = shipment.torn + shipment.dead
    if shipment.rows or refused or not is_quiet:
        more = f", {refused} refused (spanledger ship --dead)" if refused else ""
        console().print(f"shipped {shipment.rows:,} rows from {directory} to {sink.shown}{more}")
    for name, problem in shipment.problems.items():
        click.echo(visible(f"{directory / name}: {problem}; skipped. Remove it, or make it readable"), err=True)


def _refresh_rollups(progress: Callable[[int, int], None] = lambda _, __: None) -> RebuildReport:
    """Migrates the tables and refreshes the rollups."""
    ledger_target = resolve_target()
    with open_client(ledger_target) as client:
        migrations.migrate(client, ledger_target)
        return Rollups(client, ledger_target).refresh(progress=progress)


@click.command()
@click.option("--follow", is_flag=True, help="Repeat once a minute until interrupted.")
@report_user_errors
def rollup(follow: bool) -> None:
    """Rebuild the rollups of the days whose calls have changed.

    `spanledger ship --follow` does this by itself; run it from cron where nothing else of Spanledger runs. Closed
    hours are then answered from the rollups (llm_costs, llm_costs_daily, llm_costs_users), later ones from the calls.

    \b
    Example:
      spanledger rollup --follow
    """
    while True:
        with step_progress() as progress:
            rebuild = _refresh_rollups(progress)
        if rebuild.days or not follow:
            console().print(f"rebuilt {len(rebuild.days)} days{_day_range(rebuild.days)}")
        for day in rebuild.skipped_days:
            console().print(f"{day} keeps its rollup, which counts more calls than the ledger still has")
        if not follow:
            return
        time.sleep(ROLLUP_SECONDS)


@click.command()
@click.option("--repair", is_flag=True, help="Rebuild the days that differ.")
@click.option("--force", is_flag=True, help="With --repair: also days with expired calls (their old rollup is lost).")
@report_user_errors
def verify(repair: bool, force: bool) -> None:
    """Compare the rollups with the calls. Exit status 1 if they differ and were not repaired.

    Days whose calls have all expired are skipped: only their rollups remain.

    \b
    Example:
      spanledger verify --repair
    """
    ledger_target = resolve_target()
    with open_client(ledger_target) as client:
        migrations.migrate(client, ledger_target)
        rollups = Rollups(client, ledger_target)
        with spinner("comparing"):
            differences = rollups.differences()
        for difference in differences:
            console().print(
                f"{difference.day}  {difference.rollup}: {difference.calls[0]:,} calls and {difference.cost_usd[0]} USD, "
                f"the table has {difference.calls[1]:,} and {difference.cost_usd[1]}"
            )
        if not differences:
            console().print("the rollups match the calls")
            return
        if repair:
            rebuild = rollups.repair([difference.day for difference in differences], shrink=force)
            console().print(f"rebuilt {len(rebuild.days)} days{_day_range(rebuild.days)}")
            if not rebuild.skipped_days:
                return
            console().print(
                f"{len(rebuild.skipped_days)} days kept: they count more calls than the ledger still has (--force rebuilds them)"
            )
    raise click.exceptions.Exit(1)


@click.command()
@click.option("--since", type=click.DateTime(), required=True, help="Start (UTC, inclusive), e.g. 2026-03-01.")
@click.option("--until", type=click.DateTime(), help="End (UTC, exclusive); default: now.")
@click.option("--model", help="Only calls of this model.")
@click.option("--dry-run", is_flag=True, help="Only print what would change.")
@as_table
@report_user_errors
def reprice(since: datetime, until: datetime | None, model: str | None, dry_run: bool, as_json: bool) -> None:
    """Reprice calls with the current price tables. Each has the prices of its time.

    Changes are recorded in the table `corrections` with old and new figures, and the rollups are updated. Unpriced calls
    get a price if there is one now ("healed"); "unpriced" have none any more. Run it with the SPANLEDGER_PRICE_OVERRIDES and
    SPANLEDGER_PRICES_FILE of the application: rows priced by own rates are left alone without them. After an interruption, run the command again to resume.

    \b
    Example:
      spanledger reprice --since 2026-03-01 --until 2026-04-01 --dry-run
    """
    end = (until or datetime.now(UTC)).replace(tzinfo=UTC)
    with ledger() as database:
        with step_progress("pricing hours") as advance:
            changes = repricing.reprice(
                database.client,
                database.target,
                since.replace(tzinfo=UTC),
                end,
                model=model,
                dry_run=dry_run,
                progress=advance,
            )
        if not dry_run and changes:
            Rollups(database.client, database.target).refresh()
    rows = [(c.model, c.calls, c.newly_priced, c.lost, c.old_usd, c.new_usd, c.new_usd - c.old_usd) for c in changes]
    columns = ("model", "calls", "healed", "unpriced", "old_cost_usd", "new_cost_usd", "difference_usd")
    types = ("String", "UInt64", "UInt64", "UInt64", "Decimal(38, 12)", "Decimal(38, 12)", "Decimal(38, 12)")
    show(Result(columns, types, rows), "Would change" if dry_run else "Changed", json_output=as_json)


def _day_range(days: list[date]) -> str:
    return f" ({days[0]} to {days[-1]})" if days else ""


def _show_or_requeue(directory: Path, *, retry: bool) -> bool:
    """Lists the dead letters, or requeues them; returns whether there are rows to ship."""
    letters = list(dead_letters.list_entries(directory))
    if retry:
        with shipper.exclusive_shipper(directory):  # no dead letter is added while they are requeued
            count = dead_letters.requeue(directory, directory / f"retried-{time.time_ns()}{SUFFIX}")
        console().print(f"{count} rows go back into the spool")
        return count > 0
    for letter in letters:
        when = (EPOCH + timedelta(seconds=min(max(letter.refused_at, 0), MAX_TIMESTAMP_SECONDS))).isoformat(
            timespec="seconds"
        )
        console().print(f"{when}  {visible(letter.reason)}  ({len(letter.line):,} bytes)", markup=False)
    console().print(f"{len(letters)} rows were refused; they are kept in {dead_letters.path(directory)}")
    return False


def _check_traces(otel_traces: bool, source: str | None, kafka: str | None, ledger_target: Target) -> None:
    if kafka and (not otel_traces or source):
        raise click.UsageError("--kafka fills otel_traces: give --otel-traces, too, and no --otel-traces-from")
    if source and not otel_traces:
        raise click.UsageError("--otel-traces-from says where --otel-traces reads: give both")
    if kafka and ledger_target.embedded:
        raise click.UsageError("--kafka needs a ClickHouse server: the embedded engine reads no Kafka")


def _show_migrations(client: Any, ledger_target: Target, *, only_pending: bool) -> None:
    servers = migrations.topology()
    names = [m.name for m in migrations.pending(client, ledger_target, servers, whole=True)]
    for migration in migrations.migrations(ledger_target.database, servers):
        state = "pending" if migration.name in names else "applied"
        if not only_pending or state == "pending":
            console().print(f"{state}  {migration.name}")
    if only_pending and not names:
        console().print(f"{ledger_target.masked_dsn} is up to date")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only print what would be applied.")
@click.option("--status", is_flag=True, help="Only print what is applied and what is pending.")
@click.option("--retention-days", type=click.IntRange(0), help="Delete calls older than this (0: never); rollups stay.")
@click.option(
    "--refreshable", is_flag=True, help="Let the server itself refresh the rollups, if no spanledger command does."
)
@click.option(
    "--otel-traces",
    is_flag=True,
    help="Also the table and views for the Collector's own clickhouse exporter (sql-only.yaml).",
)
@click.option(
    "--otel-traces-from",
    metavar="[DATABASE.]TABLE",
    help="With --otel-traces: that table of the exporter, also one whose attributes are JSON, instead of one of our own.",
)
@click.option(
    "--kafka",
    metavar="BROKERS",
    help="With --otel-traces: ClickHouse itself reads the spans from Kafka (host:port,...; kafka-produce.yaml).",
)
@click.option("--kafka-topic", default="spanledger-spans", show_default=True)
@click.option("--kafka-group", default="spanledger-clickhouse", show_default=True)
@report_user_errors
def migrate(
    dry_run: bool,
    status: bool,
    retention_days: int | None,
    refreshable: bool,
    otel_traces: bool,
    otel_traces_from: str | None,
    kafka: str | None,
    kafka_topic: str,
    kafka_group: str,
) -> None:
    """Create the ledger's tables and views, or bring them up to date.

    The command is idempotent. It needs the privilege to create tables in the database of
    SPANLEDGER_DSN (spanledger rights). SPANLEDGER_CLUSTER names a cluster, SPANLEDGER_REPLICATED=true asks for
    replicated tables.

    \b
    Examples:
      spanledger migrate --dry-run
      spanledger migrate --retention-days 400
    """
    ledger_target = resolve_target()
    topic = (kafka, kafka_topic, kafka_group) if kafka else None
    _check_traces(otel_traces, otel_traces_from, kafka, ledger_target)
    with open_client(ledger_target) as client:
        if status or dry_run:
            _show_migrations(client, ledger_target, only_pending=not status)
            return
        if refreshable and (retention_days or migrations.has_ttl(client, ledger_target)):
            raise click.UsageError(
                "refreshable rollups lose calls that are deleted: with a retention, use `spanledger rollup`"
            )
        applied_migrations = migrations.migrate(client, ledger_target, whole=True)
        if retention_days is not None:
            applied_migrations.append(migrations.set_retention(client, ledger_target, retention_days))
        database, servers = ledger_target.database, migrations.topology()
        further = migrations.refreshable(database, servers) if refreshable else []
        if otel_traces:
            table = otel_traces_from or migrations.table_of_traces(client, database)
            source = migrations.source_of_traces(client, table, database) if table else ""
            further += migrations.otel_traces(database, servers, source)
            further += migrations.kafka(database, *topic, servers) if topic else []
        applied_migrations += migrations.apply(client, ledger_target, further)
    for migration in applied_migrations:
        console().print(f"applied  {migration.name}")
    console().print(f"{ledger_target.masked_dsn} is up to date")


@click.command()
@click.option("--tenant", "tenants", multiple=True, help="Also a role that sees only this tenant's rows; repeatable.")
@click.option("--database", help="Default: that of SPANLEDGER_DSN.")
@report_user_errors
def rights(tenants: tuple[str, ...], database: str | None) -> None:
    """Print SQL for least-privilege users. They are writer, reader, maintainer and tenants.

    \b
    Example:
      spanledger rights --tenant acme | clickhouse-client
    """
    for statement in grants.statements(database or resolve_target().database, tenants):
        click.echo(f"{statement};")


COMMANDS: Final = (ship, migrate, rights, rollup, verify, reprice)
