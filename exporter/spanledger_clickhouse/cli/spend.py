"""Query commands: spend, request, sql."""

from __future__ import annotations

from typing import Final

import click

from spanledger.semconv.dimensions import BY_LABEL
from spanledger_clickhouse.cli.output import (
    as_json,
    console,
    ledger,
    notes_on_other_rows,
    report_user_errors,
    show,
    spinner,
    usd,
)
from spanledger_clickhouse.database.ledger import NotReadOnlyError
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.session import spools_of

VIEWS: Final = ("feature", "user", "request", "model", "team", "project")
"""Groups with a view of their own, which has more columns than the generic query."""
GROUPS: Final = (*VIEWS, *(label for label in BY_LABEL if label not in VIEWS))


NO_CALLS_HINT: Final = (
    "\nno calls yet: was the program started with opentelemetry-instrument, and with the same settings? "
    "`spanledger doctor` checks"
)


@click.command()
@click.option("--by", type=click.Choice(GROUPS), default="feature", show_default=True, help="What to group by.")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="How many rows.")
@as_json
@report_user_errors
def spend(by: str, top: int, as_json: bool) -> None:
    """Show spend by feature, user, request, model or another dimension, highest first.

    \b
    Example:
      spanledger spend --by user --top 5
    """
    with ledger() as database, spinner("querying the ledger"):
        query = (
            statement(f"cli/spend_by_{by}")
            if by in VIEWS
            else statement("cli/spend_by_dimension", column=BY_LABEL[by].column)
        )
        show(database.query(query, {"limit": top}), f"Spend by {by} (USD)", json_output=as_json)
        if not as_json:
            total, calls, unpriced, unattributed, lost, avoided, hits = database.query(statement("cli/total")).rows[0]
            if not calls:
                if not notes_on_other_rows(spools_of(database.target)):
                    console().print(NO_CALLS_HINT)
                return
            console().print(
                f"\ntotal {usd(total or 0)} USD in {calls:,} calls; {unpriced:,} without a price; "
                f"{usd(unattributed or 0)} USD in {lost:,} calls not fully attributed (spanledger who-forgot)"
            )
            if hits:
                answered = f"{hits:,} call{'s' if hits != 1 else ''}"
                console().print(f"{usd(avoided or 0)} USD not spent: caches answered {answered}")


@click.command()
@click.argument("request_id")
@as_json
@report_user_errors
def request(request_id: str, as_json: bool) -> None:
    """List the LLM calls of one application request.

    REQUEST_ID is the value of spanledger.request.id in the application's baggage.

    \b
    Example:
      spanledger request req-0036 --json
    """
    with ledger() as database, spinner("querying the ledger"):
        result = database.query(statement("cli/calls_of_request"), {"id": request_id})
        if not result.rows:
            raise click.ClickException(
                f"no call has the request id {request_id!r}; see `spanledger spend --by request`"
            )
        show(result, f"Calls of request {request_id}", json_output=as_json)


@click.command()
@click.argument("query")
@click.option("--write", is_flag=True, help="Allow a statement that changes the ledger (ALTER, DELETE, INSERT, ...).")
@as_json
@report_user_errors
def sql(query: str, write: bool, as_json: bool) -> None:
    """Query the ledger in SQL.

    Without --write, one read-only statement is run: SELECT, WITH, SHOW, DESCRIBE, EXPLAIN or EXISTS. ClickHouse's
    read-only mode also refuses a SETTINGS clause and table functions such as file() and url().

    \b
    Example:
      spanledger sql "SELECT feature, sum(cost_usd) FROM llm_calls FINAL GROUP BY feature"
    """
    with ledger() as database, spinner("querying the ledger"):
        try:
            result = database.query(query) if write else database.read(query)
        except NotReadOnlyError as error:
            raise click.UsageError(
                "only read-only queries are allowed. Pass --write to modify the ledger, or for SETTINGS, file() and url()"
            ) from error
        show(result, "", json_output=as_json)


COMMANDS: Final = (spend, request, sql)
