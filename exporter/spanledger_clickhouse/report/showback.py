"""A showback of a month: one file for each team, with what its features and models have cost at list price and as agreed."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from html import escape
from typing import Any, Final, NamedTuple

from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.money import usd
from spanledger_clickhouse.report.html import STYLE
from spanledger_clickhouse.report.sections import NO_TEAM

MICRODOLLAR: Final = Decimal("0.000001")
COLUMNS: Final = (
    "month",
    "team",
    "service",
    "feature",
    "provider",
    "model",
    "calls",
    "unpriced_calls",
    "list_usd",
    "contracted_usd",
    "amortised_usd",
    "effective_usd",
)
AMOUNTS: Final = COLUMNS[-4:]
LONGEST_NAME: Final = 100
"""Characters of a team's name within that of its file."""
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""First characters of text that a spreadsheet would run (OWASP, CSV injection)."""


class Showback(NamedTuple):
    """What one team is shown."""

    month: date
    team: str
    rows: Sequence[dict[str, Any]]
    """By `COLUMNS`, the most expensive first."""

    @property
    def file_name(self) -> str:
        """Of letters, digits and dashes; where they do not say which team it is, with a digest of its name."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", self.team).strip("-.")
        if self.team not in (plain, NO_TEAM) or len(plain) > LONGEST_NAME:
            plain = f"{plain[:LONGEST_NAME] or 'team'}-{hashlib.sha256(self.team.encode()).hexdigest()[:6]}"
        return f"{self.month:%Y-%m}-{plain}"

    def total(self, column: str) -> Decimal:
        return sum((row[column] for row in self.rows), Decimal(0))


def showbacks(ledger: Ledger, month: date) -> list[Showback]:
    """One for each team that has costs in a month.

    Raises:
        DatabaseError: the ledger could not be queried.
    """
    by_team: dict[str, list[dict[str, Any]]] = {}
    for row in ledger.query(statement("report/showback"), {"month": month}).rows:
        values: dict[str, Any] = dict(zip(COLUMNS, (month, *row), strict=True))
        values |= {column: Decimal(repr(values[column])).quantize(MICRODOLLAR) for column in AMOUNTS}
        values["team"] = values["team"] or NO_TEAM
        by_team.setdefault(values["team"], []).append(values)
    return [Showback(month, team, rows) for team, rows in sorted(by_team.items())]


def as_csv(showback: Showback) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in showback.rows:
        writer.writerow([_cell(row[column]) for column in COLUMNS])
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, date):
        return f"{value:%Y-%m}"
    if isinstance(value, Decimal | int):
        return str(value)
    text = str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def as_html(showback: Showback) -> str:
    """A page that prints on A4."""
    title = f"LLM costs of {showback.team}, {showback.month:%B %Y}"
    note = "As agreed: list price less negotiated discounts. Shared costs: the team's share by use of capacity, seats, commitments and credits."
    head = ("feature", "model", "calls", "list price", "as agreed", "shared costs", "cost")
    rows = "".join(
        f"<tr><td>{escape(str(row['feature'] or row['service'] or '-'))}</td><td>{escape(str(row['model'] or '-'))}</td>"
        f"<td>{row['calls']:,}</td>{''.join(f'<td>{usd(row[column])}</td>' for column in AMOUNTS)}</tr>"
        for row in showback.rows
    )
    totals = "".join(f"<td>{usd(showback.total(column))}</td>" for column in AMOUNTS)
    return "\n".join([
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>',
        f"<style>{STYLE} @page {{ size: A4; margin: 15mm; }} td {{ overflow-wrap: anywhere; }}</style></head><body>",
        f'<h1>{escape(title)}</h1><p class="headline">{usd(showback.total("effective_usd"))}</p>',
        f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{rows}<tr><td>total</td><td></td><td></td>{totals}</tr></table>",
        f'<p class="note">{note}</p></body></html>',
        "",
    ])  # fmt: skip
