"""`spanledger top`: live view of the current spend."""

from __future__ import annotations

import sys
import time
from typing import Final

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from spanledger.semconv.dimensions import DIMENSIONS
from spanledger_clickhouse.cli.output import as_table, console, ledger, report_user_errors, show
from spanledger_clickhouse.cli.tables import columns_of, fitting, table
from spanledger_clickhouse.database.ledger import Ledger, Result
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.money import usd

GROUP_COLUMNS: Final = {
    **{row.label: f"c.{row.column}" for row in DIMENSIONS.values()},
    "model": "c.model",
    "service": "c.service",
}


@click.command()
@click.option(
    "--by", type=click.Choice(list(GROUP_COLUMNS)), default="feature", show_default=True, help="What to group by."
)
@click.option("--minutes", default=60, show_default=True, type=click.IntRange(1, 10080), help="How far back.")
@click.option("--top", "rows", default=20, show_default=True, type=click.IntRange(1), help="How many rows.")
@click.option("--every", default=5.0, show_default=True, type=click.FloatRange(1.0), help="Seconds between refreshes.")
@click.option("--once", is_flag=True, help="Print once and exit (the default if the output is not a terminal).")
@as_table
@report_user_errors
def top(by: str, minutes: int, rows: int, every: float, once: bool, as_json: bool) -> None:
    """Show current spend, refreshed, highest first. It is by feature, user, model, service or another dimension.

    Press Ctrl-C to quit.

    \b
    Example:
      spanledger top --by user --minutes 15
    """
    title = f"Spend of the last {minutes} minutes by {by}"

    def current_spend(database: Ledger) -> Result:
        query = statement("cli/current_spend", column=GROUP_COLUMNS[by], name=f"by_{by}")
        result = database.query(query, {"minutes": minutes, "top": rows})
        return Result((by, *result.columns[1:]), result.types, result.rows)

    if once or as_json or not sys.stdout.isatty():
        with ledger() as database:
            show(current_spend(database), title, json_output=as_json)
        return
    with Live(console=console(), screen=True, auto_refresh=False) as live:
        while True:
            with ledger() as database:  # opened anew each time: an embedded ledger is free for others in between
                result = current_spend(database)
            spent = sum((row[1] or 0 for row in result.rows), 0)
            below = Text(f"\n{usd(spent)}; refreshed every {every:g} s; Ctrl-C quits", style="dim")
            columns, _ = fitting(columns_of(result), live.console.width)
            live.update(Group(Text(title, style="bold"), table(columns), below), refresh=True)
            try:
                time.sleep(every)
            except KeyboardInterrupt:
                return


COMMANDS: Final = (top,)
