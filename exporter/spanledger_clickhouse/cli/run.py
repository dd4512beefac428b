"""`spanledger run`: where the cost of an agent's run went."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import click

from spanledger_clickhouse.cli.output import as_table, ledger, report_user_errors, show, spinner
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.money import usd
from spanledger_clickhouse.report import run_trees


@click.command("run")
@click.argument("run_id", required=False)
@click.option(
    "--days", default=7, show_default=True, type=click.IntRange(1, 3660), help="How many days back, without an id."
)
@click.option("--top", default=20, show_default=True, type=click.IntRange(1), help="How many runs, without an id.")
@as_table
@report_user_errors
def run(run_id: str | None, days: int, top: int, as_json: bool) -> None:
    """Show where the cost of an agent's run went. It is a tree of workflow, agents, tools and calls.

    RUN_ID is that of a trace, a request, a session or a conversation. Without one, the most expensive runs are listed. The
    steps are those whose spans say so: gen_ai.operation.name, OpenInference or OpenLLMetry.

    \b
    Example:
      spanledger run 4bf92f3577b34da6a3ce929d0e0e4736
    """
    if run_id is None:
        since = datetime.now(UTC) - timedelta(days=days)
        with ledger() as database, spinner("querying the ledger"):
            runs = database.query(statement("cli/runs"), {"since": since, "top": top})
        title = f"The most expensive runs of the last {days} day{'s' * (days != 1)}"
        show(runs, title, json_output=as_json, important=("total_cost_usd", "agents"))
        return
    with ledger() as database, spinner("querying the ledger"):
        steps = run_trees.steps_of(database, run_id)
    if not steps:
        raise click.ClickException(
            f"no call belongs to {run_id}: give the id of a trace, a request, a session or a conversation (spanledger run lists runs)"
        )
    missing = run_trees.note(steps)
    title = f"Run {run_id}: {usd(run_trees.total(steps))}{f' ({missing})' if missing else ''}"
    show(run_trees.table_of(steps), title, json_output=as_json, important=("total_cost_usd", "share"))


COMMANDS: Final = (run,)
