"""Queries of views, and the start of the month that tests of views make up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from spanledger_clickhouse.database.connection import Target

START = datetime(2026, 3, 1, tzinfo=UTC)
Row = dict[str, Any]


class ViewQueries:
    """Queries of the ledger's views, beside the rows that the ledger holds."""

    def __init__(self, client: Any, target: Target, rows: list[Row]) -> None:
        self.client, self.target, self.rows = client, target, rows

    def __call__(self, view: str, columns: str = "*", **parameters: datetime) -> list[tuple[Any, ...]]:
        arguments = ", ".join(f"{name} = '{moment:%Y-%m-%d %H:%M:%S}'" for name, moment in parameters.items())
        name = f"`{self.target.database}`.{view}" + (f"({arguments})" if arguments else "")
        return [tuple(row) for row in self.client.query(f"SELECT {columns} FROM {name}").result_rows]

    def grouped(self, key: Callable[[Row], Any], rows: list[Row] | None = None) -> dict[Any, list[Row]]:
        groups: dict[Any, list[Row]] = defaultdict(list)
        for row in self.rows if rows is None else rows:
            groups[key(row)].append(row)
        return groups
