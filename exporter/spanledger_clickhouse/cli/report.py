"""`spanledger report`: the week, the month ahead, and whether the figures can be trusted; for people, chat and mail."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import click

from spanledger_clickhouse.cli.output import Usd, as_json, ledger, plain, reported, working, write
from spanledger_clickhouse.report import html, slack, text
from spanledger_clickhouse.report.queries import Report, hour_after, report


def _json(report: Report) -> str:
    figures: Any = dataclasses.asdict(report)
    derived = {"utilisation": report.utilisation, "over_budget": report.over_budget}
    return json.dumps({**plain(figures), **plain(derived)}, indent=2, ensure_ascii=False) + "\n"


FORMATS: Final[dict[str, Callable[[Report], str]]] = {
    "text": text.plain,
    "md": text.markdown,
    "html": html.page,
    "json": _json,
    "slack": lambda report: json.dumps(slack.message(report), indent=2, ensure_ascii=False) + "\n",
}


@click.command("report")
@click.option("--days", default=7, show_default=True, type=click.IntRange(1, 366), help="How many days back.")
@click.option("--since", type=click.DateTime(), help="The first moment (UTC), instead of --days.")
@click.option("--until", type=click.DateTime(), help="The first moment after it (UTC); default: now.")
@click.option("--budget", type=Usd(), help="A month's budget; default: the ledger's global monthly one.")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="text", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The file; default: standard output.")
@as_json
@reported
def weekly(
    days: int,
    since: datetime | None,
    until: datetime | None,
    budget: Decimal | None,
    form: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """What was spent, by what, how it is going, and how far to trust it.

    \b
    Examples:
      spanledger report --budget 10000
      spanledger report --since 2026-03-01 --until 2026-04-01 --format html --out march.html
      spanledger report --format slack | curl -fsS -H 'content-type: application/json' -d @- "$SLACK_WEBHOOK_URL"
    """
    end = (until or datetime.now(UTC)).replace(tzinfo=UTC)
    begin = since.replace(tzinfo=UTC) if since else hour_after(end) - timedelta(days=days)
    if begin >= end:
        raise click.UsageError(f"--since {begin:%Y-%m-%d %H:%M} is not before {end:%Y-%m-%d %H:%M}")
    with ledger() as database, working("asking the ledger"):
        figures = report(database, begin, end, budget)
    write(FORMATS["json" if as_json else form](figures), out)


COMMANDS: Final = (weekly,)
