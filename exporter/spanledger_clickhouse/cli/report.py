"""`spanledger report`: cost report with forecast and data quality, as text, Markdown, HTML, JSON or Slack blocks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import click

from spanledger_clickhouse import money
from spanledger_clickhouse.cli.output import (
    Usd,
    as_json,
    json_value,
    ledger,
    readable_json,
    report_user_errors,
    spinner,
    write,
)
from spanledger_clickhouse.cli.periods import MONTH, days_of
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.invoices import exchange_rates
from spanledger_clickhouse.invoices.lines import InvoiceError
from spanledger_clickhouse.money import usd
from spanledger_clickhouse.report import html, slack, text
from spanledger_clickhouse.report import showback as showbacks
from spanledger_clickhouse.report.queries import Report, end_of_hour, report


def _json(report: Report) -> str:
    figures: Any = dataclasses.asdict(report)
    derived = {name: getattr(report, name) for name in ("utilisation", "forecast_utilisation", "over_budget")}
    return readable_json({**json_value(figures), **json_value(derived)}) + "\n"


FORMATS: Final[dict[str, Callable[[Report], str]]] = {
    "text": text.plain,
    "md": text.markdown,
    "html": html.page,
    "json": _json,
    "slack": lambda report: readable_json(slack.message(report)) + "\n",
}


@click.command("report")
@click.option("--days", default=7, show_default=True, type=click.IntRange(1, 366), help="How many days back.")
@click.option("--month", type=MONTH, help="A calendar month, e.g. 2026-10, beside the one before.")
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="The first day (UTC), instead of --days.")
@click.option("--to", "last", type=click.DateTime(["%Y-%m-%d"]), help="The last day, inclusive; default: today.")
@click.option("--since", type=click.DateTime(), help="Start (UTC, inclusive), instead of --days.")
@click.option("--until", type=click.DateTime(), help="End (UTC, exclusive); default: now.")
@click.option("--budget", type=Usd(), help="The monthly budget; default: the ledger's global monthly budget.")
@click.option(
    "--currency",
    default="USD",
    show_default=True,
    help="EUR, GBP, JPY, ...: at the mean rate of the period, each day weighted with its spend (`spanledger rates`).",
)
@click.option(
    "--showback", type=click.Path(file_okay=False, path_type=Path),
    help="With --month: write a file for each team into this directory, --format csv or html.",
)  # fmt: skip
@click.option("--format", "form", type=click.Choice([*FORMATS, "csv"]), default="text", show_default=True)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="The output file; default: standard output."
)
@as_json
@report_user_errors
def weekly(
    days: int,
    month: date | None,
    first: datetime | None,
    last: datetime | None,
    currency: str,
    showback: Path | None,
    since: datetime | None,
    until: datetime | None,
    budget: Decimal | None,
    form: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Report the spend of a period, its trend, forecast and data quality.

    \b
    Examples:
      spanledger report --budget 10000
      spanledger report --month 2026-03 --format html --out march.html
      spanledger report --month 2026-03 --showback march --format csv
      spanledger report --format slack | curl -fsS -H 'content-type: application/json' -d @- "$SLACK_WEBHOOK_URL"
    """
    if sum((month is not None, bool(first or last), bool(since or until))) > 1:
        raise click.UsageError("give one of --month, --from/--to and --since/--until")
    if showback is not None:
        if month is None or form not in SHOWBACK:
            raise click.UsageError("--showback needs --month, and --format csv or html")
        if currency.strip().upper() != "USD" and form == "csv":
            raise click.UsageError("a CSV for a program is in USD: leave --currency out, or write --format html")
        _write_showback(month, showback, form, currency.strip().upper())
        return
    if form == "csv":
        raise click.UsageError("--format csv belongs to --showback")
    currency = currency.strip().upper()
    if currency != "USD" and (as_json or form == "json"):
        raise click.UsageError("JSON is for a program, and in USD: leave --currency out, or write another --format")
    before = None
    if month is not None:
        begin, end = (_midnight(day) for day in days_of(month))
        month_before = _midnight((month - timedelta(days=1)).replace(day=1))
        is_over = end <= datetime.now(UTC)
        end = min(end, datetime.now(UTC))
        # Of a month that goes on, the same part of the month before.
        before = (month_before, begin if is_over else min(begin, month_before + (end_of_hour(end) - begin)))
    elif first or last:
        end = min(
            (last or datetime.now(UTC)).replace(tzinfo=UTC, hour=0, minute=0, second=0, microsecond=0)
            + timedelta(days=1),
            datetime.now(UTC),
        )
        begin = first.replace(tzinfo=UTC) if first else end_of_hour(end) - timedelta(days=days)
    else:
        end = (until or datetime.now(UTC)).replace(tzinfo=UTC)
        begin = since.replace(tzinfo=UTC) if since else end_of_hour(end) - timedelta(days=days)
    if begin >= end:
        option = "--month" if month else "--from" if first or last else "--since"
        raise click.UsageError(f"{option} {begin:%Y-%m-%d %H:%M} is not before {end:%Y-%m-%d %H:%M}")
    with ledger() as database, spinner("querying the ledger"):
        figures = report(database, begin, end, budget, before)
        per_usd = None if currency == "USD" else _mean_rate(database, begin, end, currency)
    with _amounts_in(currency, per_usd):
        document = FORMATS["json" if as_json else form](figures)
    write(document, out)


SHOWBACK: Final = {"csv": showbacks.as_csv, "html": showbacks.as_html}


def _write_showback(month: date, directory: Path, form: str, currency: str) -> None:
    with ledger() as database, spinner("adding up"):
        shown = showbacks.showbacks(database, month)
        begin, end = (_midnight(day) for day in days_of(month))
        per_usd = None if currency == "USD" else _mean_rate(database, begin, end, currency)
    if not shown:
        click.echo(f"no file is written: the ledger has no costs in {month:%Y-%m}", err=True)
        return
    directory.mkdir(parents=True, exist_ok=True)
    with _amounts_in(currency, per_usd):
        for part in shown:
            file = directory / f"{part.file_name}.{form}"
            write(SHOWBACK[form](part), file)
            click.echo(f"{file}  {usd(part.total('effective_usd'))}")


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _amounts_in(currency: str, per_usd: Decimal | None) -> AbstractContextManager[None]:
    if currency != "USD" and per_usd is None:
        click.echo(
            f"note: nothing was spent, and there is no exchange rate of {currency}: amounts are in USD", err=True
        )
    return contextlib.nullcontext() if per_usd is None else money.shown_in(currency, per_usd)


def _mean_rate(database: Ledger, begin: datetime, end: datetime, currency: str) -> Decimal | None:
    """What one US dollar cost in a period, each day weighted with its spend; without any, on its last day, if that is known."""
    words = {
        name: f"toDateTime('{moment:%Y-%m-%d %H:%M:%S}', 'UTC')" for name, moment in (("since", begin), ("until", end))
    }
    rows = database.query(statement("report/rates", **words), {"currency": currency}).rows
    mean, missing, last = rows[0] if rows else (None, (), begin.date())
    if mean is None and not missing:  # nothing was spent: the rate of the last day
        last = (end - timedelta(microseconds=1)).date()
        try:
            return 1 / exchange_rates.stored(database).usd(Decimal(1), currency, last)
        except InvoiceError:
            return None
    if missing or mean is None:
        day = next(iter(missing), last)
        raise click.ClickException(
            f"the ledger has no exchange rate of {currency} for {day}: import them with `spanledger rates import FILE`"
        )
    return Decimal(repr(mean))


COMMANDS: Final = (weekly,)
