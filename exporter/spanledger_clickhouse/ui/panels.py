"""What a page consists of: figures, and panels with a table, perhaps a chart, and the SQL behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from spanledger_clickhouse.database.ledger import Result
from spanledger_clickhouse.printable import MONEY, format_cell, is_numeric
from spanledger_clickhouse.report.spending import Query
from spanledger_clickhouse.ui.filters import Filters

ROWS: Final = 50
"""Of a table, at the most."""

Row = Mapping[str, Any]
"""A row of a result, by its columns."""


@dataclass(frozen=True)
class Chart:
    """A chart of days; its table has the same figures."""

    days: Sequence[date]
    series: Sequence[Mapping[str, Any]]
    """label; values, one for each day or None; kind: line, area, dash, bar, band, course (one of several)."""
    summary: str
    """In words, for who does not see it."""

    @property
    def data(self) -> dict[str, Any]:
        """For the script that draws it: x in Unix seconds."""
        x = [int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) for day in self.days]
        return {
            "x": x,
            "series": [{**series, "values": list(map(_number, series["values"]))} for series in self.series],
        }


@dataclass(frozen=True)
class Cell:
    text: str
    kind: str = ""
    """number, time, or neither."""
    href: str = ""
    share: float | None = None
    """Of the largest in its column: for a bar."""


@dataclass(frozen=True)
class Panel:
    """A titled table, perhaps with a chart, and the SQL that made it."""

    title: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    sql: str = ""
    note: str = ""
    empty: str = "There is nothing in this period."
    chart: Chart | None = None
    numeric: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Page:
    """A page, before it is HTML."""

    name: str
    title: str
    panels: Sequence[Panel] = ()
    stats: Sequence[tuple[str, str, str]] = ()
    """(name, value, remark)."""
    bars: Sequence[Mapping[str, Any]] = ()
    """Of a request: its calls on the time axis."""
    filters: Filters | None = None
    error: str = ""
    later: str = ""
    """Of a page that is still being made: the key with which its script asks for it."""


def panel(
    title: str,
    result: Result,
    query: Query | None = None,
    link: Callable[[str, Row], str] = lambda _column, _row: "",
    *,
    bar: str = "",
    hidden: Sequence[str] = (),
    note: str = "",
    empty: str = "There is nothing in this period.",
) -> Panel:
    """A result as a panel; `link` gives the address of a cell of a row, `bar` names the column that has bars, `hidden` those that
    are there for links only."""
    places = [n for n, name in enumerate(result.columns) if name not in hidden]
    columns = [_column(result, n, link, has_bars=result.columns[n] == bar) for n in places]
    if len(result.rows) == ROWS and not note:
        note = f"The first {ROWS}."
    heads = [result.columns[n].removesuffix(MONEY).removesuffix("_share").replace("_", " ") for n in places]
    numeric = frozenset(head for head, n in zip(heads, places, strict=True) if is_numeric(result.types[n]))
    return Panel(
        title, heads, list(zip(*columns, strict=True)), query.literal() if query else "", note, empty, None, numeric
    )


def _column(result: Result, number: int, link: Callable[[str, Row], str], *, has_bars: bool) -> list[Cell]:
    """The cells of one column."""
    name, values = result.columns[number], [row[number] for row in result.rows]
    most = max((float(value or 0) for value in values), default=0.0) if has_bars else 0.0
    kind = "number" if is_numeric(result.types[number]) else "time" if "Date" in result.types[number] else ""
    return [
        Cell(format_cell(name, value) or "-", kind, link(name, row), float(value or 0) / most if most > 0 else None)
        for value, row in zip(values, rows_of(result), strict=True)
    ]


def rows_of(result: Result) -> list[Row]:
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
