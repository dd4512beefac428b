"""The session of a command: the database open, its schema in place, and the spool drained into it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

from spanledger.runtime import settings
from spanledger_clickhouse.database import migrations
from spanledger_clickhouse.database.connection import DatabaseError, connected, denied, target
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.ship import shipper
from spanledger_clickhouse.ship.sinks import ClickHouseSink


@contextmanager
def opened(
    progress: Callable[[int], None] = lambda _: None, dsn: str | None = None, *, take_in: bool = True
) -> Generator[Ledger]:
    """The ledger of SPANLEDGER_DSN, else the embedded one; what waits in the spool is shipped first (`take_in`).

    Raises:
        DatabaseError: it cannot be opened.
    """
    database_target = target(dsn)
    with connected(database_target) as client:
        with suppress_denied():  # a reader asks what is there: whoever may, has migrated
            migrations.migrate(client, database_target)
        ledger = Ledger(client, database_target)
        if take_in and settings.setting("otlp_endpoint") is None:  # else the spool is a Collector's to get
            # Another process may be shipping it: what it has not sent yet comes in a second. A reader ships nothing.
            with suppress(shipper.BusyError), suppress_denied():
                shipper.drain(settings.spool_dir(), ClickHouseSink(database_target, client), progress)
        client.command(f"USE `{database_target.database}`") if database_target.embedded else _use(client, database_target.database)
        yield ledger


@contextmanager
def suppress_denied() -> Generator[None]:
    """Go on where the database's user has not the right."""
    try:
        yield
    except DatabaseError as error:
        if not denied(error):
            raise


def _use(client: Any, database: str) -> None:
    client.database = database
