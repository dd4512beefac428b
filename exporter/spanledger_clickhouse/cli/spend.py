"""Query commands: spend, request, sql."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import click

from spanledger_clickhouse.cli.output import (
    as_table,
    console,
    ledger,
    notes_on_other_rows,
    report_user_errors,
    show,
    spinner,
)
from spanledger_clickhouse.cli.periods import MONTH, days_of
from spanledger_clickhouse.cli.tables import BAR
from spanledger_clickhouse.database.connection import resolve_target
from spanledger_clickhouse.database.ledger import NotReadOnlyError, Result
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.money import usd
from spanledger_clickhouse.report.spending import (
    EXPRESSIONS,
    FIRST_YEAR,
    LAST_YEAR,
    SORTS,
    TIMES,
    Scope,
    Total,
    column_of,
    period_before,
    spent,
)
from spanledger_clickhouse.session import spools_of

VIEWS: Final = ("feature", "user", "request", "model", "team", "project")
"""Groups with a view of their own, which has more columns than the generic query."""
BAR_WIDTH: Final = 24
"""Characters of the longest bar."""


class Groups(click.ParamType[tuple[str, ...]]):
    """One or more dimensions, with commas."""

    name = "DIMENSION[,...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if name not in EXPRESSIONS:
                self.fail(f"{name!r} is none of {', '.join(EXPRESSIONS)}", param, ctx)
        return names


class Filter(click.ParamType[tuple[str, str]]):
    """DIMENSION=VALUE."""

    name = "DIMENSION=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, equals, wanted = str(value).partition("=")
        if name not in EXPRESSIONS or not equals:
            self.fail(f"{value!r} is not DIMENSION=VALUE, e.g. user=ada ({', '.join(EXPRESSIONS)})", param, ctx)
        return name, wanted


NO_CALLS_HINT: Final = (
    "\nno calls yet: was the program started with opentelemetry-instrument, and with the same settings? "
    "`spanledger doctor` checks"
)


@click.command()
@click.option(
    "--by", type=Groups(), default="feature", show_default=True,
    help=f"What to group by, one or several with commas: {', '.join(EXPRESSIONS)}.",
)  # fmt: skip
@click.option("--days", type=click.IntRange(1, 3660), help="The last so many days; default: all time.")
@click.option("--since", type=click.DateTime(), help="Start (UTC, inclusive).")
@click.option("--until", type=click.DateTime(), help="End (UTC, exclusive); default: now.")
@click.option("--month", type=MONTH, help="A calendar month, e.g. 2026-10.")
@click.option(
    "--where",
    "conditions",
    type=Filter(),
    multiple=True,
    help='Only calls of this value, e.g. user=ada; "user=" for none; of one dimension, any of several.',
)
@click.option(
    "--compare",
    type=click.Choice(["previous"]),
    help="Beside the period before: of a month the one before, or as much of it; else as long.",
)
@click.option("--sort", type=click.Choice(list(SORTS)), default="cost", show_default=True)
@click.option("--top", type=click.IntRange(1), help="How many rows; default: 20, or all by day or hour.")
@as_table
@report_user_errors
def spend(
    by: tuple[str, ...],
    days: int | None,
    since: datetime | None,
    until: datetime | None,
    month: date | None,
    conditions: tuple[tuple[str, str], ...],
    compare: str | None,
    sort: str,
    top: int | None,
    as_json: bool,
) -> None:
    """Show spend by feature, user, model, day or any other dimensions. The highest stands first.

    \b
    Examples:
      spanledger spend --by user --top 5
      spanledger spend --by feature,model --month 2026-10 --compare previous
      spanledger spend --by day --days 14 --where user=ada
    """
    if sum((days is not None, month is not None, since is not None or until is not None)) > 1:
        raise click.UsageError("give one of --days, --month and --since/--until")
    begin, end = _period(days, since, until, month)
    if begin is not None and begin >= end:
        raise click.UsageError(f"{begin:%Y-%m-%d %H:%M} is not before {end:%Y-%m-%d %H:%M}")
    if compare and begin is None:
        raise click.UsageError("--compare needs a period: --days, --month or --since")
    if compare and by[0] in TIMES:
        raise click.UsageError(f"--compare is of a whole period: by {by[0]}, no row has one before")
    is_plain = len(by) == 1 and begin is None and until is None and not conditions and sort == "cost"
    window = "all time" if begin is None else f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    title = f"Spend by {', '.join(by)}, {window}"
    if compare and begin is not None:
        title += " (previous: {:%Y-%m-%d %H:%M} to {:%Y-%m-%d %H:%M})".format(*period_before(begin, end))
    with ledger() as database, spinner("querying the ledger"):
        scope = Scope(database.target.database, begin, end, conditions)
        if is_plain and by[0] in VIEWS:
            result = database.query(statement(f"cli/spend_by_{by[0]}"), {"limit": top or 20})
        else:
            result = spent(database, scope.by(by, compare=bool(compare), sort=sort, top=top), by)
        if not as_json and by[0] in TIMES and len(by) == 1 and result.rows:
            result = _with_bars(result)
        total = None if as_json else scope.total(database)
        is_empty = total is not None and not total.calls and not database.query("SELECT 1 FROM llm_calls LIMIT 1").rows
    important = ("total_cost_usd", *map(column_of, by), "", "previous_cost_usd", "change_share", "calls")
    show(result, title, json_output=as_json, important=important)
    if total is not None and total.calls:
        _show_total(total)
    elif is_empty and not notes_on_other_rows(spools_of(resolve_target())):
        console().print(NO_CALLS_HINT)


def _period(
    days: int | None, since: datetime | None, until: datetime | None, month: date | None
) -> tuple[datetime | None, datetime]:
    """(begin, end) of the period; no begin: all time."""
    now = datetime.now(UTC)
    for moment in (since, until):
        if moment is not None and not FIRST_YEAR <= moment.year <= LAST_YEAR:
            raise click.UsageError(f"{moment:%Y-%m-%d}: the ledger has days from {FIRST_YEAR} to {LAST_YEAR}")
    if month is not None:
        first, after = days_of(month)
        return datetime(first.year, first.month, first.day, tzinfo=UTC), datetime(
            after.year, after.month, after.day, tzinfo=UTC
        )
    if days is not None:
        return now - timedelta(days=days), now
    return since.replace(tzinfo=UTC) if since else None, (until.replace(tzinfo=UTC) if until else now)


def _with_bars(result: Result) -> Result:
    """A result by day or hour with a bar for each row's cost."""
    column = result.columns.index("total_cost_usd")
    most = max((float(row[column] or 0) for row in result.rows), default=0.0)
    bars = [("█" * round(BAR_WIDTH * float(row[column] or 0) / most) if most > 0 else "") for row in result.rows]
    rows = [(*row[: column + 1], bar, *row[column + 1 :]) for row, bar in zip(result.rows, bars, strict=True)]
    columns = (*result.columns[: column + 1], "", *result.columns[column + 1 :])
    return Result(columns, (*result.types[: column + 1], BAR, *result.types[column + 1 :]), rows)


def _show_total(total: Total) -> None:
    console().print(
        f"\ntotal {usd(total.cost_usd or 0)} in {calls(total.calls)}; {total.unpriced_calls:,} without a price; "
        f"{usd(total.unattributed_cost_usd or 0)} in {calls(total.unattributed_calls)} not fully attributed (spanledger who-forgot)"
    )
    if total.cache_hits:
        console().print(f"{usd(total.avoided_cost_usd or 0)} not spent: caches answered {calls(total.cache_hits)}")


def calls(count: int) -> str:
    return f"{count:,} call{'s' * (count != 1)}"


@click.command()
@click.argument("request_id")
@as_table
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
    important = ("model", "cost_usd", "input_tokens", "output_tokens", "feature")
    show(result, f"Calls of request {request_id}", json_output=as_json, important=important)


@click.command()
@click.argument("query")
@click.option("--write", is_flag=True, help="Allow a statement that changes the ledger (ALTER, DELETE, INSERT, ...).")
@as_table
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
