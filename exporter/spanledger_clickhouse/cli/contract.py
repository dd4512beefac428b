"""`spanledger contract`: what was agreed with a provider beside its price list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

import click

from spanledger_clickhouse.cli.groups import Group
from spanledger_clickhouse.cli.output import Usd, as_table, console, ledger, report_user_errors, show
from spanledger_clickhouse.cli.periods import MONTH
from spanledger_clickhouse.database.ledger import Result
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.invoices import contracts
from spanledger_clickhouse.invoices.contracts import KINDS, Contract
from spanledger_clickhouse.invoices.reconcile import unknown_providers
from spanledger_clickhouse.money import usd


class Percent(click.ParamType[Decimal]):
    """A share in per cent."""

    name = "PERCENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            return Decimal(str(value).removesuffix("%").strip())
        except InvalidOperation:
            self.fail(f"{value!r} is not a number", param, ctx)


DAY: Final = click.DateTime(["%Y-%m-%d"])


@click.group(cls=Group)
def contract() -> None:
    """Keep discounts, credits and commitments of providers. Capacity that is paid by time and seats are contracts, too.

    The view effective_costs has each consumer's cost at list price, at the negotiated price, and with these.
    """


@contract.command("set")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS))
@click.option("--provider", help="gen_ai.provider.name, as on the calls; default: any.")
@click.option("--model", help="A model, or gpt-5* for all that begin so; default: any.")
@click.option("--percent", type=Percent(), help="Of a discount.")
@click.option("--amount", type=Usd(), help="In USD: of a credit in total, of the others a month.")
@click.option("--since", type=DAY, help="The first day (UTC).")
@click.option("--until", type=DAY, help="The first day on which it does not hold any more.")
@click.option("--note", help="What it is, for people.")
@report_user_errors
def set_contract(
    name: str,
    kind: str | None,
    provider: str | None,
    model: str | None,
    percent: Decimal | None,
    amount: Decimal | None,
    since: datetime | None,
    until: datetime | None,
    note: str | None,
) -> None:
    """Set the contract NAME, or change it; options that are not given keep their values.

    \b
    Examples:
      spanledger contract set openai-2026 --kind discount --provider openai --percent 12.5 --since 2026-01-01
      spanledger contract set azure-ptu --kind capacity --provider azure.ai.openai --amount 2400 --since 2026-03-01
    """
    options = {
        "kind": kind,
        "provider": provider,
        "model": model,
        "percent": percent,
        "amount_usd": amount,
        "since": since.date() if since else None,
        "until": until.date() if until else None,
        "note": note,
    }
    changes: dict[str, Any] = {field: value for field, value in options.items() if value is not None}
    with ledger() as database:
        before = next((contract for contract in contracts.stored(database) if contract.name == name), None)
        if before is None and not (kind and since):
            raise click.UsageError(f"there is no contract {name!r} to change; a new one needs --kind and --since")
        agreed = replace(before, **changes) if before else Contract(name, **changes)
        contracts.store(database, [agreed])
        unknown = unknown_providers(database, {agreed.provider} - {""})
    was = f" (was: {_described(before)})" if before else ""
    console().print(f"{name}: {_described(agreed)}{was}", markup=False)
    _warn_of(unknown)


def _described(agreed: Contract) -> str:
    amount = f"{agreed.percent.normalize():f} %" if agreed.kind == "discount" else usd(agreed.amount_usd)
    until = "" if agreed.until == contracts.ENDLESS else f" to {agreed.until}"
    return f"{agreed.kind} of {amount} for {agreed.provider or 'any provider'}, {agreed.model or 'any model'}, from {agreed.since}{until}"


def _warn_of(providers: Sequence[str]) -> None:
    if providers:
        click.echo(f"no call so far is of {', '.join(providers)}: is it spelt as on the calls?", err=True)


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
        unknown = unknown_providers(database, {contract.provider for contract in agreed} - {""})
    console().print(f"{len(agreed)} contract{'s are' if len(agreed) != 1 else ' is'} set")
    _warn_of(unknown)


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
    with ledger() as database:
        result = database.query(statement("contracts/costs", by=by), {"month": month})
    show(result, f"{month:%Y-%m} with its contracts", json_output=as_json)


COMMANDS: Final = (contract,)
