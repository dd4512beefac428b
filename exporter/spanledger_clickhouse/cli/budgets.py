"""`spanledger budget`: what may be spent, and how far it has come."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import click

from spanledger_clickhouse.cli.output import Usd, as_json, console, ledger, reported, show
from spanledger_clickhouse.database import DatabaseError, reason

SCOPES: Final = ("global", "tenant", "tier", "feature", "user")
DEFAULT_THRESHOLDS: Final = (0.8, 0.9, 0.95, 1.0)

STATUS: Final = """
SELECT name, scope, key, period, amount_usd, round(spent_usd, 6) AS spent_usd, round(utilisation, 4) AS utilisation,
       round(projected_usd, 2) AS projected_usd, exhausted_at, exhausted_earliest, exhausted_latest
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
    console().print(f"budget {name}: {amount:,} USD a {period}, {scope} {key}".rstrip())


@budget.command("remove")
@click.argument("name")
@reported
def remove(name: str) -> None:
    """Remove the budget NAME."""
    with ledger() as found:
        known = found.query("SELECT count() FROM budgets FINAL WHERE name = {name:String}", {"name": name}).rows[0][0]
    if not known:
        raise click.ClickException(f"there is no budget {name!r}; see `spanledger budget list`")
    _write([name, "global", "", "month", Decimal(0), [], 1])
    console().print(f"budget {name} removed")


@budget.command("list")
@click.option("--as-of", type=click.DateTime(), help="As it was then (UTC; whole days).")
@as_json
@reported
def listed(as_of: datetime | None, as_json: bool) -> None:
    """Each budget in its period: spent, projected, and when it will be used up."""
    view = f"budget_status_at(as_of = '{as_of:%Y-%m-%d %H:%M:%S}')" if as_of else "budget_status"
    with ledger() as found:
        show(found.query(f"{STATUS} {view}"), "Budgets (USD)", json_output=as_json)


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
