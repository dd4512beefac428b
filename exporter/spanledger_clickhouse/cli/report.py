"""`spanledger report`: cost report with forecast and data quality, as text, Markdown, HTML, JSON or Slack blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import click

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
from spanledger_clickhouse.report import html, slack, text
from spanledger_clickhouse.report.queries import Report, end_of_hour, report


def _json(report: Report) -> str:
    figures: Any = dataclasses.asdict(report)
    derived = {"projected_utilisation": report.projected_utilisation, "over_budget": report.over_budget}
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
@click.option("--since", type=click.DateTime(), help="Start (UTC, inclusive), instead of --days.")
@click.option("--until", type=click.DateTime(), help="End (UTC, exclusive); default: now.")
@click.option("--budget", type=Usd(), help="The monthly budget; default: the ledger's global monthly budget.")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="text", show_default=True)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="The output file; default: standard output."
)
@as_json
@report_user_errors
def weekly(
    days: int,
    since: datetime | None,
    until: datetime | None,
    budget: Decimal | None,
    form: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Report the spend of a period with breakdowns, trends, forecast and data quality.

    \b
    Examples:
      spanledger report --budget 10000
      spanledger report --since 2026-03-01 --until 2026-04-01 --format html --out march.html
      spanledger report --format slack | curl -fsS -H 'content-type: application/json' -d @- "$SLACK_WEBHOOK_URL"
    """
    end = (until or datetime.now(UTC)).replace(tzinfo=UTC)
    begin = since.replace(tzinfo=UTC) if since else end_of_hour(end) - timedelta(days=days)
    if begin >= end:
        raise click.UsageError(f"--since {begin:%Y-%m-%d %H:%M} is not before {end:%Y-%m-%d %H:%M}")
    with ledger() as database, spinner("querying the ledger"):
        figures = report(database, begin, end, budget)
    write(FORMATS["json" if as_json else form](figures), out)


COMMANDS: Final = (weekly,)
