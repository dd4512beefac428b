"""What the ledger holds, as text for people: names come from requests, and may hold anything."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any, Final, cast

from spanledger_clickhouse.money import usd

MONEY: Final = "_usd"
"""End of the names of columns with amounts."""
LONGEST_NAME: Final = 100
"""Characters of a name within a message."""


def visible(text: str) -> str:
    """Text without control characters: a terminal runs them, and a line break forges a line. They are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(name: str) -> str:
    """A name as one line of printable characters, truncated to 100."""
    printable = "".join(character if character.isprintable() else " " for character in name)
    return printable if len(printable) <= LONGEST_NAME else f"{printable[: LONGEST_NAME - 1]}…"


def without_middle(text: str, width: int) -> str:
    """A text of at most `width` characters: its begin and its end."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def is_numeric(kind: str) -> bool:
    """Whether a ClickHouse type is that of numbers."""
    return any(word in kind for word in ("Int", "Float", "Decimal")) and "Array" not in kind


def format_cell(column: str, value: Any) -> str:
    """A value for people: amounts with their sign, shares as per cent, - for unknown."""
    if value is None:
        return "-"
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _format_number(column, value)
    if isinstance(value, datetime) and value.utcoffset() == timedelta(0):
        value = value.replace(tzinfo=None)  # the zone of every table; only another, which a query asked for, is named
    if isinstance(value, datetime) and value.microsecond:
        return value.isoformat(" ", "milliseconds")
    if isinstance(value, dict):
        parts = cast("dict[Any, Any]", value).items()
        return ", ".join(f"{visible(str(name))} {format_cell('', part)}" for name, part in parts)
    if isinstance(value, list | tuple):
        return ", ".join(str(part) if part is None else format_cell("", part) for part in cast("list[Any]", value))
    return visible(str(value))


def _format_number(column: str, value: float | Decimal) -> str:
    if not isfinite(value):
        return str(value)
    if column.endswith(MONEY):
        return usd(value)
    if column.endswith("_share") or column == "utilisation":
        return f"{float(value):.1%}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Decimal):
        return format(value.normalize() if value else Decimal(0), ",f")
    return f"{value:,.1f}" if abs(value) >= 100 or value.is_integer() else format(Decimal(f"{value:.4g}"), "f")
