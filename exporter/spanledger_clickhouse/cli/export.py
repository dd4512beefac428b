"""`spanledger export`: writes calls, or FOCUS usage, to a file for other tools."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from spanledger_clickhouse.cli.output import ledger, report_user_errors, spinner, write
from spanledger_clickhouse.database.connection import DatabaseError, reason
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement

FORMATS: Final = {"csv": "CSVWithNames", "parquet": "Parquet", "jsonl": "JSONEachRow"}
CSV_SETTINGS: Final = {"format_csv_null_representation": "", "output_format_decimal_trailing_zeros": 1}
"""A column without a value is empty; a cost has all its decimals, so that no reader takes a column for whole numbers."""
VIEWS: Final = {"focus": "focus_cost_and_usage_between", "calls": "llm_call_record_between"}
"""Kind of export -> its view."""


@click.command()
@click.option(
    "--format", "form", type=click.Choice(["focus", *FORMATS]), default="focus", show_default=True,
    help="focus: FOCUS 1.4 columns as CSV; csv, parquet, jsonl: one row per call.",
)  # fmt: skip
@click.option("--since", type=click.DateTime(), required=True, help="Start (UTC, inclusive), e.g. 2026-03-01.")
@click.option("--until", type=click.DateTime(), help="End (UTC, exclusive); default: now.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="The output file; default: standard output."
)
@report_user_errors
def export(form: str, since: datetime, until: datetime | None, out: Path | None) -> None:
    """Export the calls of a period, or their usage in FOCUS columns.

    \b
    Example:
      spanledger export --format focus --since 2026-03-01 --until 2026-04-01 --out march.csv
    """
    from clickhouse_connect.driver.exceptions import Error

    view = VIEWS["focus" if form == "focus" else "calls"]
    window = {"since": since, "until": until or datetime.now(UTC)}
    if window["since"].replace(tzinfo=UTC) >= window["until"].replace(tzinfo=UTC):
        raise click.UsageError(f"--since {since} is not before --until {window['until']:%Y-%m-%d %H:%M:%S}")
    if out is None and form == "parquet" and sys.stdout.isatty():
        raise click.UsageError("Parquet is binary and is not written to a terminal: give --out FILE")
    times = {name: f"{moment:%Y-%m-%d %H:%M:%S}" for name, moment in window.items()}
    source = f"{view}(since = '{times['since']}', until = '{times['until']}')"
    with ledger() as database, spinner("exporting"):
        query = f"SELECT {_csv_columns(database, source) if form in ('focus', 'csv') else '*'} FROM {source}"
        try:
            data: bytes = database.client.raw_query(query, settings=CSV_SETTINGS, fmt=FORMATS.get(form, FORMATS["csv"]))
        except Error as error:
            raise DatabaseError(f"exporting failed: {reason(error)}") from error
    write(data, out)


def _csv_columns(database: Ledger, source: str) -> str:
    """The columns, with a quote before text that a spreadsheet would run as a formula (OWASP, CSV injection)."""
    columns = database.query(f"DESCRIBE (SELECT * FROM {source} LIMIT 0)").rows
    return ", ".join(_csv_column(str(name), str(kind)) for name, kind, *_ in columns)


def _csv_column(name: str, kind: str) -> str:
    if "DateTime" in kind:
        return f"formatDateTime(`{name}`, '%Y-%m-%dT%H:%i:%SZ', 'UTC') AS `{name}`"
    if name.endswith("Quantity"):
        return f"toDecimal128(`{name}`, 6) AS `{name}`"  # FOCUS: a decimal, which readers take from its point
    if name == "Tags" or "Map" in kind or "String" not in kind:
        return f"`{name}`" if "Map" not in kind and "Array" not in kind else f"toJSONString(`{name}`) AS `{name}`"
    if "Array" in kind:
        return f"toJSONString(`{name}`) AS `{name}`"
    return statement("cli/csv_text", column=name)


COMMANDS: Final = (export,)
