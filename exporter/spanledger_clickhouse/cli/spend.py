"""Query commands: spend, request, sql."""

from __future__ import annotations

from typing import Final

import click

from spanledger_clickhouse.cli.output import as_json, console, ledger, report_user_errors, show, spinner, usd
from spanledger_clickhouse.database.ledger import NotReadOnlyError

SPEND: Final = {
    "feature": "SELECT feature, total_cost_usd, calls, mean_cost_usd, p95_cost_usd, unpriced_calls FROM cost_by_feature",
    "user": "SELECT user_id, total_cost_usd, calls, mean_cost_usd, max_cost_usd, tokens, unpriced_calls FROM cost_by_user",
    "model": (
        "SELECT provider, model, total_cost_usd, calls, input_tokens_total AS input_tokens, "
        "output_tokens_total AS output_tokens, cache_read_share, unpriced_calls FROM cost_by_model"
    ),
    "request": "SELECT request_id, feature, user_id, total_cost_usd, calls, tokens, models, unpriced_calls FROM request_cost",
}

REQUEST: Final = """
SELECT start_time, feature, user_id, provider, c.model AS model, c.input_tokens AS input_tokens,
       c.output_tokens AS output_tokens, cost_usd, price_status, attempts, outcome, trace_id
FROM llm_calls AS c FINAL WHERE request_id = {id:String} ORDER BY start_time
"""

TOTAL: Final = """
SELECT sum(c.cost_usd) AS total_cost_usd, count() AS calls, countIf(c.unpriced_reason != '') AS unpriced,
       sumIf(c.cost_usd, c.attribution_reason != '') AS unattributed_cost_usd,
       countIf(c.attribution_reason != '') AS unattributed
FROM llm_calls AS c FINAL
"""


NO_CALLS_HINT: Final = (
    "\nno calls yet: was the program started with opentelemetry-instrument, and with the same settings? "
    "`spanledger doctor` checks"
)


@click.command()
@click.option("--by", type=click.Choice(list(SPEND)), default="feature", show_default=True, help="What to group by.")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="How many rows.")
@as_json
@report_user_errors
def spend(by: str, top: int, as_json: bool) -> None:
    """Show spend by feature, user, model or request.

    \b
    Example:
      spanledger spend --by user --top 5
    """
    with ledger() as database, spinner("querying the ledger"):
        show(database.query(f"{SPEND[by]} LIMIT {top}"), f"Spend by {by} (USD)", json_output=as_json)
        if not as_json:
            total, calls, unpriced, unattributed, lost = database.query(TOTAL).rows[0]
            if not calls:
                console().print(NO_CALLS_HINT)
                return
            console().print(
                f"\ntotal {usd(total or 0)} USD in {calls:,} calls; {unpriced:,} without a price; "
                f"{usd(unattributed or 0)} USD in {lost:,} calls not fully attributed (spanledger who-forgot)"
            )


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
        result = database.query(REQUEST, {"id": request_id})
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
