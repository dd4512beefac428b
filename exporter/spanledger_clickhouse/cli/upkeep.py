"""Commands that keep the ledger: ship, migrate."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from spanledger import settings
from spanledger.spool import SUFFIX
from spanledger_clickhouse import dead_letters, schema, shipper, sinks
from spanledger_clickhouse.cli.output import console, progress, reported
from spanledger_clickhouse.database import DatabaseError, connected, target


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
    """
    directory = settings.spool_dir()
    if dead and not _dead(directory, retry=retry):
        return
    sink = sinks.configured() or sinks.ClickHouseSink(target())
    pause = every
    while True:
        try:
            with progress("shipping", shipper.waiting(directory)) as advance:
                done = shipper.drain(directory, sink, advance)
            pause = every
            if done.rows or done.torn or done.dead or not follow:
                refused = f", {done.torn + done.dead} refused (spanledger ship --dead)" if done.torn + done.dead else ""
                console().print(f"shipped {done.rows:,} rows from {directory} to {sink.shown}{refused}")
        except (DatabaseError, shipper.BusyError) as error:
            if not follow:
                raise
            pause = min(pause * 2, 60.0)
            click.echo(f"{error}; trying again in {pause:g} s", err=True)
        if not follow:
            sink.close()
            return
        time.sleep(pause)


def _dead(directory: Path, *, retry: bool) -> bool:
    """Show the dead letters, or put them back; whether there is anything to ship then."""
    found = list(dead_letters.letters(directory))
    if retry:
        count = dead_letters.exhume(directory, directory / f"retried-{time.time_ns()}{SUFFIX}")
        console().print(f"{count} rows go back into the spool")
        return count > 0
    for letter in found:
        when = datetime.fromtimestamp(letter.at, UTC).isoformat(timespec="seconds")
        console().print(f"{when}  {letter.reason}  ({len(letter.line):,} bytes)")
    console().print(f"{len(found)} rows were refused; they are kept in {dead_letters.path(directory)}")
    return False


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be applied.")
@click.option("--status", is_flag=True, help="Only say what has been applied.")
@reported
def migrate(dry_run: bool, status: bool) -> None:
    """Create the ledger's tables and views, or bring them up to date.

    Running it again changes nothing. It needs the right to create tables in the database of
    SPANLEDGER_DSN.
    """
    where = target()
    with connected(where) as client:
        if status or dry_run:
            names = [m.name for m in schema.pending(client, where)]
            for migration in schema.migrations(where.database):
                state = "pending" if migration.name in names else "applied"
                if status or state == "pending":
                    console().print(f"{state}  {migration.name}")
            if dry_run and not names:
                console().print(f"{where.shown} is up to date")
            return
        done = schema.migrate(client, where)
    for migration in done:
        console().print(f"applied  {migration.name}")
    console().print(f"{where.shown} is up to date")


COMMANDS: Final = (ship, migrate)
