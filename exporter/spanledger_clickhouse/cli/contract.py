"""`spanledger contract`: what was agreed with a provider beside its price list."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

import click

from spanledger_clickhouse.cli.groups import Group
from spanledger_clickhouse.cli.output import Usd, as_table, console, ledger, report_user_errors, show
from spanledger_clickhouse.cli.periods import MONTH
from spanledger_clickhouse.database.ledger import Result
from spanledger_clickhouse.invoices import contracts
from spanledger_clickhouse.invoices.contracts import KINDS, Contract

DAY: Final = click.DateTime(["%Y-%m-%d"])


@click.group(cls=Group)
def contract() -> None:
    """Keep discounts, credits and commitments of providers. Capacity that is paid by time and seats are contracts, too.

    The view effective_costs has each consumer's cost at list price, at the negotiated price, and with these.
    """


@contract.command("set")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), required=True)
@click.option("--provider", default="", help="gen_ai.provider.name, as on the calls; default: any.")
@click.option("--model", default="", help="A model, or gpt-5* for all that begin so; default: any.")
@click.option("--percent", type=float, default=0.0, help="Of a discount.")
@click.option("--amount", type=Usd(), help="In USD: of a credit in total, of the others a month.")
@click.option("--since", type=DAY, required=True, help="The first day (UTC).")
@click.option("--until", type=DAY, help="The first day on which it does not hold any more.")
@click.option("--note", default="")
@report_user_errors
def set_contract(
    name: str,
    kind: str,
    provider: str,
    model: str,
    percent: float,
    amount: Decimal | None,
    since: datetime,
    until: datetime | None,
    note: str,
) -> None:
    """Set the contract NAME, or change it.

    \b
    Examples:
      spanledger contract set openai-2026 --kind discount --provider openai --percent 12.5 --since 2026-01-01
      spanledger contract set azure-ptu --kind capacity --provider azure.ai.openai --amount 2400 --since 2026-03-01
    """
    agreed = Contract(
        name, kind, since.date(), provider, model, Decimal(str(percent)), amount or Decimal(0),
        until.date() if until else contracts.ENDLESS, note,
    )  # fmt: skip
    with ledger() as database:
        contracts.store(database, [agreed])
        query = "SELECT count() FROM (SELECT 1 FROM llm_calls AS c WHERE c.provider = {provider:String} LIMIT 1)"
        is_known = not provider or bool(database.query(query, {"provider": provider}).rows[0][0])
    console().print(
        f"{name} is set" + ("" if is_known else f"; no call so far is of {provider}: is it spelt as on the calls?"),
        markup=False,
    )


@contract.command("list")
@as_table
@report_user_errors
def list_contracts(as_json: bool) -> None:
    """List the contracts.

    \b
    Example:
      spanledger contract list
    """
    with ledger() as database:
        agreed = contracts.stored(database)
    names = ("name", "kind", "provider", "model", "percent", "amount_usd", "since", "until", "note")
    rows = [
        (c.name, c.kind, c.provider or "any", c.model or "any", c.percent or None, c.amount_usd or None, c.since,
         None if c.until == contracts.ENDLESS else c.until, c.note)
        for c in agreed
    ]  # fmt: skip
    types = ("String", "String", "String", "String", "Decimal", "Decimal", "Date", "Date", "String")
    show(Result(names, types, rows), "Contracts", json_output=as_json)


@contract.command("remove")
@click.argument("name")
@report_user_errors
def remove(name: str) -> None:
    """Remove the contract NAME, as if it had never been: past months change, too. To end one, set --until.

    \b
    Example:
      spanledger contract remove openai-2026
    """
    with ledger() as database:
        agreed = next((c for c in contracts.stored(database) if c.name == name), None)
        if agreed is None:
            raise click.ClickException(f"there is no contract {name!r}; see `spanledger contract list`")
        contracts.store(database, [agreed], is_deleted=True)
    console().print(f"{name} is removed", markup=False)


@contract.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@report_user_errors
def import_contracts(file: Path) -> None:
    """Set the contracts of FILE, TOML: [contract.NAME] with kind, since, provider, model, percent or amount_usd, until, note.

    \b
    Example:
      spanledger contract import contracts.toml
    """
    agreed = contracts.read(file)
    with ledger() as database:
        contracts.store(database, agreed)
    console().print(f"{len(agreed)} contract{'s are' if len(agreed) != 1 else ' is'} set")


@contract.command("costs")
@click.argument("month", type=MONTH)
@click.option(
    "--by",
    type=click.Choice(["team", "provider", "model", "feature", "tenant_id", "service"]),
    default="team",
    show_default=True,
)
@as_table
@report_user_errors
def costs(month: date, by: str, as_json: bool) -> None:
    """Show MONTH at list price, at the negotiated price, and with credits, commitments, capacity and seats.

    \b
    Example:
      spanledger contract costs 2026-10 --by team
    """
    query = (
        f"SELECT {by}, sum(list_usd) AS list_usd, sum(contracted_usd) AS contracted_usd, sum(amortised_usd) AS amortised_usd, "
        f"sum(effective_usd) AS effective_usd FROM effective_costs "
        f"WHERE month = '{month}' GROUP BY {by} ORDER BY effective_usd DESC, {by}"
    )
    with ledger() as database:
        result = database.query(query)
    show(result, f"{month:%Y-%m} with its contracts (USD)", json_output=as_json)


COMMANDS: Final = (contract,)
