"""Tables for people: they fit the terminal, and no number is ever cut or folded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from rich.table import Table
from rich.text import Text

from spanledger_clickhouse.database.ledger import Result
from spanledger_clickhouse.printable import MONEY, format_cell, is_numeric, visible, without_middle

GAP: Final = 2
"""Characters between two columns."""
LEAST_TEXT: Final = 20
"""Characters that a name keeps: its begin and its end."""
BAR: Final = "Bar"
"""Type of a column of bars."""


class Column(NamedTuple):
    """A column of a table, as text."""

    name: str
    is_text: bool
    """Whether it may lose its middle; numbers and times may not."""
    is_numeric: bool
    cells: list[str]

    @property
    def width(self) -> int:
        return max(map(len, (self.name, *self.cells)))

    @property
    def least(self) -> int:
        """Characters below which the column is of no use."""
        return min(self.width, max(LEAST_TEXT, len(self.name))) if self.is_text else self.width

    def fitted(self, width: int) -> Column:
        return self._replace(cells=[without_middle(cell, width) for cell in self.cells]) if self.is_text else self


def columns_of(result: Result) -> list[Column]:
    """The columns of a result as text; amounts stand with their points below each other."""
    columns: list[Column] = []
    for n, (name, kind) in enumerate(zip(result.columns, result.types, strict=True)):
        cells = [format_cell(name, row[n]) for row in result.rows]
        has_numbers = is_numeric(kind)
        is_text = not has_numbers and "Date" not in kind and kind != BAR
        columns.append(
            Column(
                visible(name), is_text, has_numbers, _aligned(cells) if has_numbers and name.endswith(MONEY) else cells
            )
        )
    return columns


def fitting(
    columns: Sequence[Column], width: int | None, important: Sequence[str] = ()
) -> tuple[list[Column], list[str]]:
    """The columns that fit into a terminal, and the names of the others.

    Long names lose their middle; then columns are left out: those that are empty in every row, then the last ones. The first
    column stays, which says what a row is about, and then what is important: if nothing is said, the first one of money.

    Args:
        columns: at least one.
        width: characters of a line; None: no limit.
        important: names of columns, the most important first.
    """
    if width is None or sum(column.width for column in columns) + GAP * (len(columns) - 1) <= width:
        return list(columns), []
    numbers = range(len(columns))
    money = next((n for n in numbers if columns[n].name.endswith(MONEY) and columns[n].is_numeric), 0)
    places = {column.name: n for n, column in enumerate(columns)}
    first = [0, *(places[name] for name in important if name in places), *([] if important else [money])]
    filled = [n for n in numbers if any(cell.strip() not in ("", "-") for cell in columns[n].cells)]
    chosen: list[int] = []
    for n in dict.fromkeys((*first, *filled, *numbers)):
        if chosen and sum(columns[k].least for k in (*chosen, n)) + GAP * len(chosen) > width:
            break
        chosen.append(n)
    chosen.sort()
    spare = width - sum(columns[n].least for n in chosen) - GAP * (len(chosen) - 1)
    fitted: dict[int, Column] = {}
    for n in sorted(
        chosen, key=lambda n: columns[n].width - columns[n].least
    ):  # what is left makes as many whole as it can
        more = max(0, min(spare, columns[n].width - columns[n].least))
        spare -= more
        fitted[n] = columns[n].fitted(columns[n].least + more)
    return [fitted[n] for n in chosen], [columns[n].name for n in numbers if n not in chosen]


def table(columns: Sequence[Column]) -> Table:
    """Columns as a table of rich."""
    shown = Table(header_style="bold", box=None, pad_edge=False, padding=(0, GAP, 0, 0), collapse_padding=True)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.is_numeric else "left"
        shown.add_column(Text(column.name), justify=justify, overflow="crop", no_wrap=True, width=column.width)
    for row in zip(*(column.cells for column in columns), strict=True):
        shown.add_row(*map(Text, row))
    return shown


def _aligned(amounts: list[str]) -> list[str]:
    """Amounts padded on the right, so that their points stand below each other."""
    places = [len(amount) - amount.rfind(".") if "." in amount else 0 for amount in amounts]
    return [amount + " " * (max(places) - n) for amount, n in zip(amounts, places, strict=True)]
