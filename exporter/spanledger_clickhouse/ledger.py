"""Asking the ledger: the database of a command, its schema in place and the spool drained into it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from spanledger import settings
from spanledger_clickhouse import schema, shipper
from spanledger_clickhouse.database import DatabaseError, Target, connected, denied, reason, target
from spanledger_clickhouse.sinks import ClickHouseSink


@dataclass(frozen=True)
class Result:
    """Rows of a query, with the names and types of their columns."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Ledger:
    """An open ledger."""

    client: Any
    where: Target

    def query(self, statement: str, parameters: dict[str, Any] | None = None) -> Result:
        """Run a SELECT; bare table names mean the ledger's database, a datetime among the parameters is told in UTC.

        Raises:
            DatabaseError: ClickHouse refused the statement; the message is its own.
        """
        from clickhouse_connect.driver.exceptions import Error

        try:
            found = self.client.query(statement, parameters={k: _told(v) for k, v in (parameters or {}).items()})
        except Error as error:
            raise DatabaseError(reason(error)) from error
        return Result(
            tuple(found.column_names), tuple(kind.name for kind in found.column_types), list(found.result_rows)
        )


def _told(value: Any) -> Any:
    """A parameter; of a moment its text in UTC: drivers put it into the zone of the server, or of the process."""
    if not isinstance(value, datetime):
        return value
    return f"{value.astimezone(UTC):{'%Y-%m-%d %H:%M:%S.%f' if value.microsecond else '%Y-%m-%d %H:%M:%S'}}"


@contextmanager
def opened(
    progress: Callable[[int], None] = lambda _: None, dsn: str | None = None, *, take_in: bool = True
) -> Generator[Ledger]:
    """The ledger of SPANLEDGER_DSN, else the embedded one; what waits in the spool is shipped first (`take_in`).

    Raises:
        DatabaseError: it cannot be opened.
    """
    where = target(dsn)
    with connected(where) as client:
        with suppress_denied():  # a reader asks what is there: whoever may, has migrated
            schema.migrate(client, where)
        ledger = Ledger(client, where)
        if take_in and settings.setting("otlp_endpoint") is None:  # else the spool is a Collector's to get
            # Another process may be shipping it: what it has not sent yet comes in a second. A reader ships nothing.
            with suppress(shipper.BusyError), suppress_denied():
                shipper.drain(settings.spool_dir(), ClickHouseSink(where, client), progress)
        client.command(f"USE `{where.database}`") if where.embedded else _use(client, where.database)
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
