"""Asking the ledger: the database of a command, its schema in place and the spool drained into it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from spanledger_clickhouse.database.connection import DatabaseError, Target, reason

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
    target: Target

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
        if not self.target.embedded:
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
            response = self.client.query(statement, parameters=texts, settings=query_settings)
        except Error as error:
            if getattr(error, "code", None) == READONLY:
                raise WritesError from error
            raise DatabaseError(reason(error)) from error
        columns = tuple(response.column_names)
        rows = list(response.result_rows) if columns else []  # a statement that answers nothing has values without names
        return Result(columns, tuple(kind.name for kind in response.column_types), rows)


def _told(value: Any) -> Any:
    """A parameter; of a moment its text in UTC: drivers put it into the zone of the server, or of the process."""
    if not isinstance(value, datetime):
        return value
    return f"{value.astimezone(UTC):{'%Y-%m-%d %H:%M:%S.%f' if value.microsecond else '%Y-%m-%d %H:%M:%S'}}"
