"""Asking the ledger: the database of a command, its schema in place and the spool drained into it."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from spanledger import settings
from spanledger_clickhouse import schema, shipper
from spanledger_clickhouse.database import DatabaseError, Target, connected, denied, reason, target
from spanledger_clickhouse.sinks import ClickHouseSink

READS: Final = re.compile(r"\(*(SELECT|WITH|SHOW|DESCRIBE|EXPLAIN|EXISTS)\b")
"""How a statement begins, in ClickHouse's own form, that may only read."""
QUOTED: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|"(?:[^"\\]|\\.)*\"""", re.DOTALL)


READONLY: Final = 164
"""ClickHouse's error code of what its read-only mode refuses."""


CALLED: Final = re.compile(r"(\w+)\s*\(")
HARMLESS: Final = frozenset(
    [
        "dictionary",
        "format",
        "generaterandom",
        "generateseries",
        "generate_series",
        "loop",
        "merge",
        "mergetreeindex",
        "mergetreeprojection",
        "null",
        "numbers",
        "numbers_mt",
        "primes",
        "values",
        "view",
        "viewexplain",
        "viewifpermitted",
        "zeros",
        "zeros_mt",
    ]
)
"""Table functions that read nothing but the database, or that share their name with an ordinary function."""


class WritesError(DatabaseError):
    """A statement that was to read is one that may write."""

    def __init__(self) -> None:
        super().__init__("ClickHouse's read-only mode refuses this statement")


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
        return self._query(statement, parameters or {}, {})

    def read(self, statement: str) -> Result:
        """Run one statement of a user in ClickHouse's read-only mode.

        ClickHouse parses it first: what it takes for several statements, for one that writes, or for a SELECT into a
        file is not run at all. The embedded engine's connection stays read-only afterwards.

        Raises:
            WritesError: the statement may write, or sets a setting.
            DatabaseError: ClickHouse refused the statement; the message is its own.
        """
        parsed = str(
            self.query("SELECT formatQuerySingleLine({statement:String})", {"statement": statement}).rows[0][0]
        )
        unquoted = QUOTED.sub("''", parsed)
        if not READS.match(parsed) or "INTO OUTFILE" in unquoted or self._reaches_outside(unquoted):
            raise WritesError
        if self.query("SELECT toString(getSetting('readonly'))").rows != [("0",)]:
            return self.query(statement)  # the database's user may only read as it is
        if not self.where.embedded:
            return self._query(statement, {}, {"readonly": 1})
        self.client.command("SET readonly = 1")  # chDB applies the settings of a query to its last statement only
        return self.query(statement)

    def _reaches_outside(self, unquoted: str) -> bool:
        """Whether a statement calls a function that opens files or connections, which DESCRIBE does even in read-only mode."""
        names = {str(name).lower() for (name,) in self.query("SELECT name FROM system.table_functions").rows}
        return not (names - HARMLESS).isdisjoint(word.lower() for word in CALLED.findall(unquoted))

    def _query(self, statement: str, parameters: dict[str, Any], query_settings: dict[str, Any]) -> Result:
        from clickhouse_connect.driver.exceptions import Error

        texts = {name: _told(value) for name, value in parameters.items()}
        try:
            found = self.client.query(statement, parameters=texts, settings=query_settings)
        except Error as error:
            if getattr(error, "code", None) == READONLY:
                raise WritesError from error
            raise DatabaseError(reason(error)) from error
        columns = tuple(found.column_names)
        rows = list(found.result_rows) if columns else []  # a statement that answers nothing has values without names
        return Result(columns, tuple(kind.name for kind in found.column_types), rows)


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
