"""Opens the ledger for a command: connects, applies the schema and drains the spool."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spanledger.runtime import settings
from spanledger.runtime.guard import log
from spanledger_clickhouse.database import migrations
from spanledger_clickhouse.database.connection import (
    DatabaseError,
    Target,
    is_access_denied,
    open_client,
    resolve_target,
)
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.ship import shipper
from spanledger_clickhouse.ship.sinks import ClickHouseSink


@contextmanager
def open_ledger(
    progress: Callable[[int], None] = lambda _: None, dsn: str | None = None, *, take_in: bool = True
) -> Generator[Ledger]:
    """Open the ledger of SPANLEDGER_DSN, else the embedded one; the spool is shipped first (`take_in`).

    Raises:
        DatabaseError: the ledger cannot be opened.
    """
    database_target = resolve_target(dsn)
    with open_client(database_target) as client:
        with suppress_denied():  # a read-only user cannot migrate: a privileged user has done so
            migrations.migrate(client, database_target)
        ledger = Ledger(client, database_target)
        if take_in and settings.setting("otlp_endpoint") is None:  # else the spool goes to a Collector
            with suppress_denied():  # a read-only user ships nothing
                sink = ClickHouseSink(database_target, client)
                for directory in spools_of(database_target):
                    _take_in(directory, sink, progress)
        client.command(f"USE `{database_target.database}`") if database_target.embedded else _set_database(
            client, database_target.database
        )
        yield ledger


def spools_of(target: Target) -> list[Path]:
    """The spools that a question to `target` takes in. What applications without a destination wrote goes to an embedded
    ledger; to a server only if somebody says so (`spanledger ship`), as do rows that are for another destination."""
    own = settings.destination_name(settings.destination() or "")
    directories = shipper.spool_directories(undecided=target.embedded)
    return [directory for directory in directories if shipper.destination_of(directory) in ("", own)]


def _take_in(directory: Path, sink: ClickHouseSink, progress: Callable[[int], None]) -> None:
    """Ship the spool. What cannot be shipped is logged: a question about the rest is answered all the same."""
    problems: dict[str, str] = {}
    try:
        problems = shipper.drain(directory, sink, progress).problems
    except shipper.BusyError:
        return  # another process is shipping it: its rows arrive within seconds
    except OSError as error:
        problems = {str(directory): error.strerror or type(error).__name__}
    except DatabaseError as error:
        if is_access_denied(error):
            raise
        problems = {str(directory): str(error)}
    for name, problem in problems.items():
        if problem == shipper.NOT_A_SEGMENT:  # it holds no rows; `ship` names it
            continue
        log.warning("not all rows are in the ledger yet: %s: %s (spanledger ship)", name, problem)


@contextmanager
def suppress_denied() -> Generator[None]:
    """Ignore errors about missing privileges of the database user."""
    try:
        yield
    except DatabaseError as error:
        if not is_access_denied(error):
            raise


def _set_database(client: Any, database: str) -> None:
    client.database = database
