"""Periods as command-line options: a month, days, a range."""

from __future__ import annotations

import re
from datetime import date
from typing import Any, Final

import click

from spanledger_clickhouse.invoices.closing import next_month


class Month(click.ParamType[date]):
    """A calendar month, "2026-10", as its first day."""

    name = "MONTH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        match = re.fullmatch(r"(\d{4})-(\d{1,2})", str(value).strip())
        if match is None or not 1 <= int(match[2]) <= 12 or not 2000 <= int(match[1]) < 2149:
            self.fail(f"{value!r} is not a month: write 2026-10", param, ctx)
        return date(int(match[1]), int(match[2]), 1)


MONTH: Final = Month()


def days_of(month: date) -> tuple[date, date]:
    """The first day of a month, and the first one after it."""
    return month, next_month(month)
