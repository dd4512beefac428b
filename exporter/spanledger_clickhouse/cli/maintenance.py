"""Commands that keep the ledger: ship, migrate, rollup, verify, reprice."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import click

from spanledger.runtime import settings
from spanledger.spool.writer import SUFFIX
from spanledger_clickhouse.cli.output import as_json, console, days_done, ledger, progress, reported, show, working
from spanledger_clickhouse.database import grants, migrations
from spanledger_clickhouse.database.connection import DatabaseError, connected, target
from spanledger_clickhouse.database.ledger import Result
from spanledger_clickhouse.database.rollups import Rebuilt, Rollups
from spanledger_clickhouse.prices import repricing
from spanledger_clickhouse.ship import dead_letters, shipper, sinks

ROLLUP_SECONDS: Final = 60.0


@click.command()
@click.option("--follow", is_flag=True, help="Go on shipping until interrupted (a sidecar).")
@click.option(
    "--every", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds between passes with --follow."
)
@click.option("--dead", is_flag=True, help="Show the rows that were refused, and why.")
@click.option("--retry", is_flag=True, help="With --dead: put them back into the spool and ship.")
@reported
def ship(follow: bool, every: float, dead: bool, retry: bool) -> None:
    """Send the rows that wait in the spool.

    Rows go to the Collector of SPANLEDGER_OTLP_ENDPOINT, else to the ClickHouse of SPANLEDGER_DSN, else to the
    embedded ledger. What cannot be sent stays in the spool; what is refused for good is kept apart (--dead).
    With --follow the rollups of a ClickHouse server are kept up to date as well.

    \b
    Examples:
      spanledger ship --follow
      spanledger ship --dead --retry
    """
    directory = settings.spool_dir()
    if dead and not _dead(directory, retry=retry):
        return
    sink = sinks.configured() or sinks.ClickHouseSink(target())
    pause = every
    rolled = 0.0
    while True:
        try:
            with progress("shipping", shipper.waiting(directory)) as advance:
                shipment = shipper.drain(directory, sink, advance)
            pause = every
            sink.rest()
            if shipment.rows or shipment.torn or shipment.dead or not follow:
                refused = f", {shipment.torn + shipment.dead} refused (spanledger ship --dead)" if shipment.torn + shipment.dead else ""
                console().print(f"shipped {shipment.rows:,} rows from {directory} to {sink.shown}{refused}")
            if follow and settings.setting("otlp_endpoint") is None and time.monotonic() - rolled > ROLLUP_SECONDS:
                rolled = time.monotonic()
                _roll()
        except (DatabaseError, shipper.BusyError) as error:
            if not follow:
                raise
            pause = min(pause * 2, 60.0)
            click.echo(f"{error}; trying again in {pause:g} s", err=True)
        if not follow:
            sink.close()
            return
        time.sleep(pause)


def _roll(progress: Callable[[int, int], None] = lambda _, __: None) -> Rebuilt:
    """Bring the rollups up to date."""
    ledger_target = target()
    with connected(ledger_target) as client:
        migrations.migrate(client, ledger_target)
        return Rollups(client, ledger_target).refresh(progress=progress)


@click.command()
@click.option("--follow", is_flag=True, help="Go on, once a minute, until interrupted.")
@reported
def rollup(follow: bool) -> None:
    """Rebuild the rollups of the days whose calls have changed.

    `spanledger ship --follow` does this by itself; run it from cron where nothing else of Spanledger runs. Closed
    hours are then answered from the rollups (llm_costs, llm_costs_daily, llm_costs_users), later ones from the calls.

    \b
    Example:
      spanledger rollup --follow
    """
    while True:
        with days_done() as progress:
            rebuild = _roll(progress)
        if rebuild.days or not follow:
            console().print(f"rebuilt {len(rebuild.days)} days{_span(rebuild.days)}")
        for day in rebuild.skipped_days:
            console().print(f"{day} keeps its rollup: fewer calls are left than it has counted")
        if not follow:
            return
        time.sleep(ROLLUP_SECONDS)


@click.command()
@click.option("--repair", is_flag=True, help="Rebuild the days that differ.")
@click.option("--force", is_flag=True, help="With --repair: also where calls have expired (their rollup is lost).")
@reported
def verify(repair: bool, force: bool) -> None:
    """Compare the rollups with the calls; exit status 1 where they differ and were not repaired.

    Days whose calls have all expired are left out: their rollups are all that is left of them.

    \b
    Example:
      spanledger verify --repair
    """
    ledger_target = target()
    with connected(ledger_target) as client:
        migrations.migrate(client, ledger_target)
        rollups = Rollups(client, ledger_target)
        with working("comparing"):
            differences = rollups.differences()
        for difference in differences:
            console().print(
                f"{difference.day}  {difference.rollup}: {difference.calls[0]:,} calls and {difference.cost_usd[0]} USD, "
                f"the table has {difference.calls[1]:,} and {difference.cost_usd[1]}"
            )
        if not differences:
            console().print("the rollups say what the calls say")
            return
        if repair:
            rebuild = rollups.repair([difference.day for difference in differences], shrink=force)
            console().print(f"rebuilt {len(rebuild.days)} days{_span(rebuild.days)}")
            if not rebuild.skipped_days:
                return
            console().print(f"{len(rebuild.skipped_days)} days kept: fewer calls are left than they count (--force rebuilds them)")
    raise click.exceptions.Exit(1)


@click.command()
@click.option("--since", type=click.DateTime(), required=True, help="The first moment (UTC), e.g. 2026-03-01.")
@click.option("--until", type=click.DateTime(), help="The first moment after it; default: now.")
@click.option("--model", help="Only calls of this model.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@as_json
@reported
def reprice(since: datetime, until: datetime | None, model: str | None, dry_run: bool, as_json: bool) -> None:
    """Price calls again with the prices in force, as of the time of each call.

    What changes is kept in the table `corrections`, old figures beside new ones, and the rollups follow. Calls that
    had no price get one where there is one now. Running it again goes on where it stopped.

    \b
    Example:
      spanledger reprice --since 2026-03-01 --until 2026-04-01 --dry-run
    """
    end = (until or datetime.now(UTC)).replace(tzinfo=UTC)
    with ledger() as database:
        with days_done("pricing hours") as advance:
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
    rows = [(c.model, c.calls, c.healed, c.old_usd, c.new_usd, c.new_usd - c.old_usd) for c in changes]
    columns = ("model", "calls", "healed", "old_cost_usd", "new_cost_usd", "difference_usd")
    types = ("String", "UInt64", "UInt64", "Decimal(38, 12)", "Decimal(38, 12)", "Decimal(38, 12)")
    show(Result(columns, types, rows), "Would change" if dry_run else "Changed", json_output=as_json)


def _span(days: list[date]) -> str:
    return f" ({days[0]} to {days[-1]})" if days else ""


def _dead(directory: Path, *, retry: bool) -> bool:
    """Show the dead letters, or put them back; whether there is anything to ship then."""
    letters = list(dead_letters.letters(directory))
    if retry:
        with shipper.sole_shipper(directory):  # no letter is buried while they are taken out
            count = dead_letters.exhume(directory, directory / f"retried-{time.time_ns()}{SUFFIX}")
        console().print(f"{count} rows go back into the spool")
        return count > 0
    for letter in letters:
        when = datetime.fromtimestamp(letter.refused_at, UTC).isoformat(timespec="seconds")
        console().print(f"{when}  {letter.reason}  ({len(letter.line):,} bytes)")
    console().print(f"{len(letters)} rows were refused; they are kept in {dead_letters.path(directory)}")
    return False


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be applied.")
@click.option("--status", is_flag=True, help="Only say what has been applied.")
@click.option("--retention-days", type=click.IntRange(0), help="Delete calls older than this (0: never); rollups stay.")
@click.option(
    "--refreshable", is_flag=True, help="Have the server itself keep the rollups, where no command of ours runs."
)
@click.option(
    "--otel-traces", is_flag=True, help="Also what the Collector's own clickhouse exporter writes to (sql-only.yaml)."
)
@reported
def migrate(dry_run: bool, status: bool, retention_days: int | None, refreshable: bool, otel_traces: bool) -> None:
    """Create the ledger's tables and views, or bring them up to date.

    Running it again changes nothing. It needs the right to create tables in the database of
    SPANLEDGER_DSN (spanledger rights). SPANLEDGER_CLUSTER names a cluster, SPANLEDGER_REPLICATED=true asks for
    replicated tables.

    \b
    Examples:
      spanledger migrate --dry-run
      spanledger migrate --retention-days 400
    """
    ledger_target = target()
    with connected(ledger_target) as client:
        if status or dry_run:
            servers = migrations.topology()
            names = [m.name for m in migrations.pending(client, ledger_target, servers, whole=True)]
            for migration in migrations.migrations(ledger_target.database, servers):
                state = "pending" if migration.name in names else "applied"
                if status or state == "pending":
                    console().print(f"{state}  {migration.name}")
            if dry_run and not names:
                console().print(f"{ledger_target.shown} is up to date")
            return
        if refreshable and (retention_days or migrations.expires(client, ledger_target)):
            raise click.UsageError(
                "refreshable rollups forget calls that are deleted: use `spanledger rollup` with a retention"
            )
        applied_migrations = migrations.migrate(client, ledger_target, whole=True)
        if retention_days is not None:
            applied_migrations.append(migrations.retain(client, ledger_target, retention_days))
        if refreshable:
            applied_migrations += migrations.apply(client, ledger_target, migrations.refreshable(ledger_target.database, migrations.topology()))
        if otel_traces:
            applied_migrations += migrations.apply(client, ledger_target, migrations.otel_traces(ledger_target.database, migrations.topology()))
    for migration in applied_migrations:
        console().print(f"applied  {migration.name}")
    console().print(f"{ledger_target.shown} is up to date")


@click.command()
@click.option("--tenant", "tenants", multiple=True, help="Also a role that sees this tenant's rows alone; repeat it.")
@click.option("--database", help="Default: that of SPANLEDGER_DSN.")
@reported
def rights(tenants: tuple[str, ...], database: str | None) -> None:
    """Print SQL for users with least rights: writer, reader, maintainer, tenants.

    \b
    Example:
      spanledger rights --tenant acme | clickhouse-client
    """
    for statement in grants.statements(database or target().database, tenants):
        click.echo(f"{statement};")


COMMANDS: Final = (ship, migrate, rights, rollup, verify, reprice)
