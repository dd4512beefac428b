"""Runs queries on an open ledger; user statements run in ClickHouse's read-only mode."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from spanledger_clickhouse.database.connection import DatabaseError, Target, reason

READS: Final = re.compile(r"\(*(SELECT|WITH|SHOW|DESCRIBE|EXPLAIN|EXISTS)\b")
"""Start of a read-only statement, as ClickHouse formats it."""
QUOTED_TEXT: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|"(?:[^"\\]|\\.)*\"""", re.DOTALL)


READONLY_ERROR: Final = 164
"""ClickHouse's error code for statements that its read-only mode refuses."""


FUNCTION_CALL: Final = re.compile(r"(\w+)\s*\(")
SAFE_TABLE_FUNCTIONS: Final = frozenset(
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
"""Table functions that read only the database, or that share their name with an ordinary function."""


class NotReadOnlyError(DatabaseError):
    """The statement is not read-only."""

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
        """Run a SELECT; bare table names mean the ledger's database, a datetime among the parameters is passed in UTC.

        Raises:
            DatabaseError: ClickHouse refused the statement; the message is its own.
        """
        return self._query(statement, parameters or {}, {})

    def read(self, statement: str) -> Result:
        """Run one statement of a user in ClickHouse's read-only mode.

        ClickHouse parses it first: several statements, a statement that writes and a SELECT into a file are not run
        at all. The embedded engine's connection stays read-only afterwards.

        Raises:
            WritesError: the statement may write, or sets a setting.
            DatabaseError: ClickHouse refused the statement; the message is its own.
        """
        parsed = str(
            self.query("SELECT formatQuerySingleLine({statement:String})", {"statement": statement}).rows[0][0]
        )
        unquoted = QUOTED_TEXT.sub("''", parsed)
        if not READS.match(parsed) or "INTO OUTFILE" in unquoted or self._has_external_access(unquoted):
            raise NotReadOnlyError
        if self.query("SELECT toString(getSetting('readonly'))").rows != [("0",)]:
            return self.query(statement)  # the database's user may only read as it is
        if not self.target.embedded:
            return self._query(statement, {}, {"readonly": 1})
        self.client.command("SET readonly = 1")  # chDB applies the settings of a query to its last statement only
        return self.query(statement)

    def _has_external_access(self, unquoted: str) -> bool:
        """Whether a statement calls a function that opens files or connections, which DESCRIBE does even in read-only mode."""
        names = {str(name).lower() for (name,) in self.query("SELECT name FROM system.table_functions").rows}
        return not (names - SAFE_TABLE_FUNCTIONS).isdisjoint(word.lower() for word in FUNCTION_CALL.findall(unquoted))

    def _query(self, statement: str, parameters: dict[str, Any], query_settings: dict[str, Any]) -> Result:
        from clickhouse_connect.driver.exceptions import Error

        texts = {name: _format_parameter(value) for name, value in parameters.items()}
        try:
            response = self.client.query(statement, parameters=texts, settings=query_settings)
        except Error as error:
            if getattr(error, "code", None) == READONLY_ERROR:
                raise NotReadOnlyError from error
            raise DatabaseError(reason(error)) from error
        columns = tuple(response.column_names)
        rows = (
            list(response.result_rows) if columns else []
        )  # a statement that answers nothing has values without names
        return Result(columns, tuple(kind.name for kind in response.column_types), rows)


def _format_parameter(value: Any) -> Any:
    """A query parameter; a datetime as text in UTC, because drivers use the zone of the server or of the process."""
    if not isinstance(value, datetime):
        return value
    return f"{value.astimezone(UTC):{'%Y-%m-%d %H:%M:%S.%f' if value.microsecond else '%Y-%m-%d %H:%M:%S'}}"
