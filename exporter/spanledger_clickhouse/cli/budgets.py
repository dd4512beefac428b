"""`spanledger budget`: what may be spent, and how far it has come."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import click

from spanledger_clickhouse.cli.output import Usd, as_json, console, ledger, reported, show
from spanledger_clickhouse.database import DatabaseError, reason
from spanledger_clickhouse.ledger import Result

SCOPES: Final = ("global", "tenant", "tier", "feature", "user")
DEFAULT_THRESHOLDS: Final = (0.8, 0.9, 0.95, 1.0)

STATUS: Final = """
SELECT name, scope, key, period, amount_usd, round(spent_usd, 6) AS spent_usd, round(utilisation, 4) AS utilisation,
       round(projected_usd, 6) AS projected_usd, exhausted_at, exhausted_earliest, exhausted_latest
FROM
"""


@click.group()
def budget() -> None:
    """Budgets: set them, and see how far each has come (view budget_status)."""


@budget.command("set")
@click.argument("name")
@click.argument("amount", type=Usd())
@click.option("--scope", type=click.Choice(SCOPES), default="global", show_default=True, help="What it limits.")
@click.option("--key", default="", help="Which tenant, tier, feature or user.")
@click.option("--period", type=click.Choice(("day", "month")), default="month", show_default=True, help="In UTC.")
@click.option(
    "--threshold", "thresholds", type=click.FloatRange(0, 10), multiple=True, help="Share to tell of; repeat it."
)
@reported
def put(name: str, amount: Decimal, scope: str, key: str, period: str, thresholds: tuple[float, ...]) -> None:
    """Set the budget NAME to AMOUNT dollars, or change it.

    \b
    Examples:
      spanledger budget set all 10000
      spanledger budget set summaries 500 --scope feature --key summarize --threshold 0.8 --threshold 1
    """
    if (scope == "global") != (key == ""):
        needed = "a global budget has no --key" if key else f"--key says which {scope}"
        raise click.UsageError(needed)
    _write([name, scope, key, period, amount, list(thresholds or DEFAULT_THRESHOLDS), 0])
    console().print(f"budget {name}: {amount:,} USD a {period}, {scope} {key}".rstrip(), markup=False)


@budget.command("remove")
@click.argument("name")
@reported
def remove(name: str) -> None:
    """Remove the budget NAME.

    \b
    Example:
      spanledger budget remove summaries
    """
    with ledger() as found:
        known = found.query("SELECT count() FROM budgets FINAL WHERE name = {name:String}", {"name": name}).rows[0][0]
    if not known:
        raise click.ClickException(f"there is no budget {name!r}; see `spanledger budget list`")
    _write([name, "global", "", "month", Decimal(0), [], 1])
    console().print(f"budget {name} removed", markup=False)


@budget.command("list")
@click.option("--as-of", type=click.DateTime(), help="As it was then (UTC; whole days).")
@as_json
@reported
def listed(as_of: datetime | None, as_json: bool) -> None:
    """Each budget in its period: spent, projected, and when it will be used up.

    \b
    Example:
      spanledger budget list --as-of 2026-03-15
    """
    view = f"budget_status_at(as_of = '{as_of:%Y-%m-%d %H:%M:%S}')" if as_of else "budget_status"
    with ledger() as found:
        show(found.query(f"{STATUS} {view}"), "Budgets (USD)", json_output=as_json)


SCOPED: Final = {
    "global": "1",
    "tenant": "c.tenant_id = {key:String}",
    "tier": "c.customer_tier = {key:String}",
    "feature": "c.feature = {key:String}",
    "user": "c.user_id = {key:String}",
}
"""Scope of a budget -> which calls count."""

HOURS: Final = """
SELECT toStartOfHour(c.start_time) AS hour, sum(c.cost_usd) FROM llm_calls AS c FINAL
WHERE c.start_time >= toStartOf{period}(now() - INTERVAL {days} DAY) AND {scoped} AND isNotNull(c.cost_usd)
GROUP BY hour ORDER BY hour
"""


@budget.command("test")
@click.argument("name")
@click.option("--amount", type=Usd(), help="Try this amount instead of the one that is set.")
@click.option("--days", default=90, show_default=True, type=click.IntRange(1, 400), help="How far back.")
@as_json
@reported
def tried(name: str, amount: Decimal | None, days: int, as_json: bool) -> None:
    """When the budget NAME would have told of its thresholds in the past, by the hour.

    \b
    Example:
      spanledger budget test all --amount 8000
    """
    with ledger() as found:
        known = found.query(
            "SELECT scope, key, period, amount_usd, thresholds FROM budgets FINAL WHERE name = {name:String}",
            {"name": name},
        ).rows
        if not known:
            raise click.ClickException(f"there is no budget {name!r}; see `spanledger budget list`")
        scope, key, period, set_usd, thresholds = known[0]
        query = (
            HOURS.replace("{period}", period.capitalize())
            .replace("{days}", str(days))
            .replace("{scoped}", SCOPED[scope])
        )
        hours = found.query(query, {"key": key}).rows
    thresholds = sorted(thresholds)
    rows = _passed(hours, period, amount or set_usd, thresholds)
    columns = (period, "spent_usd", "used_share", *(f"passed {threshold:.0%}" for threshold in thresholds))
    types = ("String", "Decimal", "Float64", *["String"] * len(thresholds))
    show(Result(columns, types, rows), f"Budget {name} of {amount or set_usd:,} USD a {period}", json_output=as_json)


def _passed(
    hours: list[tuple[Any, ...]], period: str, amount: Decimal, thresholds: list[float]
) -> list[tuple[Any, ...]]:
    """(period, spent, share, the hour in which each threshold was passed or None) of each period that has calls."""
    form = "%Y-%m" if period == "month" else "%Y-%m-%d"
    found: dict[str, list[Any]] = {}
    for hour, cost in hours:
        row = found.setdefault(f"{hour:{form}}", [Decimal(0), [None] * len(thresholds)])
        row[0] += cost
        for number, threshold in enumerate(thresholds):
            if row[1][number] is None and row[0] >= amount * Decimal(str(threshold)):
                row[1][number] = f"{hour:%Y-%m-%d %H}h"
    return [(name, spent, float(spent / amount) if amount else None, *times) for name, (spent, times) in found.items()]


def _write(row: list[Any]) -> None:
    from clickhouse_connect.driver.exceptions import Error

    columns = ["name", "scope", "key", "period", "amount_usd", "thresholds", "is_deleted"]
    types = [
        "String",
        "LowCardinality(String)",
        "String",
        "LowCardinality(String)",
        "Decimal(18, 6)",
        "Array(Float64)",
        "UInt8",
    ]
    with ledger() as found:
        try:
            found.client.insert(
                f"`{found.where.database}`.budgets", [row], column_names=columns, column_type_names=types
            )
        except Error as error:
            raise DatabaseError(f"writing the budget failed: {reason(error)}") from error


COMMANDS: Final = (budget,)
