"""Commands that keep the ledger: ship, migrate."""

from __future__ import annotations

import time
from typing import Final

import click

from spanledger import settings
from spanledger_clickhouse import schema, shipper, writer
from spanledger_clickhouse.cli.output import console, progress, reported
from spanledger_clickhouse.database import DatabaseError, connected, target


@click.command()
@click.option("--follow", is_flag=True, help="Go on shipping until interrupted (a sidecar).")
@click.option(
    "--every", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds between passes with --follow."
)
@reported
def ship(follow: bool, every: float) -> None:
    """Send the rows that wait in the spool to ClickHouse.

    Rows go to SPANLEDGER_DSN, or to the embedded ledger where that is not set. What cannot be sent
    stays in the spool.
    """
    where = target()
    directory = settings.spool_dir()
    while True:
        try:
            with connected(where) as client:
                schema.migrate(client, where)
                with progress("shipping", shipper.waiting(directory)) as advance:
                    done = shipper.drain(directory, lambda batch: writer.insert(client, where, batch), advance)
            if done.rows or done.torn or not follow:
                torn = f", {done.torn} torn lines skipped" if done.torn else ""
                console().print(f"shipped {done.rows:,} rows from {directory} to {where.shown}{torn}")
        except (DatabaseError, shipper.BusyError) as error:
            if not follow:
                raise
            click.echo(f"{error}; trying again in {every:g} s", err=True)
        if not follow:
            return
        time.sleep(every)


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
