"""`spanledger reconcile`: compares an invoice with the ledger and explains the variance."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Final

import click

from spanledger_clickhouse.cli.output import as_json, console, ledger, report_user_errors, show, spinner
from spanledger_clickhouse.database.ledger import Result
from spanledger_clickhouse.invoices import provider_exports
from spanledger_clickhouse.invoices import reconcile as reconciling
from spanledger_clickhouse.invoices.reconcile import CAUSES, Residual
from spanledger_clickhouse.report.sections import share, usd


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--provider", default="", help="The provider of the invoice, if the file does not name it (openai, anthropic, ...)."
)
@click.option(
    "--project-by", default="provider", show_default=True,
    help="The source of a call's project: provider (as OpenAI and Vertex report it), service, environment, "
         "feature, tenant, tier, label:<name>.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Compare only; do not store the invoice in the table invoices.")
@click.option(
    "--fail-over",
    type=click.FloatRange(0),
    help="Exit with status 1 if more than this per cent is unexplained or outside.",
)
@as_json
@report_user_errors
def reconcile(
    file: Path, provider: str, project_by: str, dry_run: bool, fail_over: float | None, as_json: bool
) -> None:
    """Compare an invoice with the ledger: the residual of each day, project and model, and what explains it.

    FILE is OpenAI's costs (JSON of /v1/organization/costs, or CSV), Anthropic's cost report (JSON of
    /v1/organizations/cost_report), Google's billing export (JSON lines or CSV), or a CSV with the columns day, provider,
    project, model, amount_usd. Only days and providers of the invoice are compared. Causes of a residual:

    \b
    rounding      decimals that the invoice left out
    unpriced      calls of the ledger without a price (at the mean of those that have one)
    unattributed  calls whose project is unknown
    tier          calls whose service tier or batch rate was estimated
    maybe_billed  attempts whose response was lost (at the mean cost of a call)
    outside       a model without calls in the ledger on that day: they bypassed the instrumentation

    \b
    Example:
      spanledger reconcile costs.json --fail-over 1
    """
    try:
        lines = provider_exports.read(file.read_bytes(), provider)
    except (provider_exports.InvoiceError, OSError) as error:
        raise click.ClickException(f"{file}: {error}") from error
    with ledger() as database, spinner("comparing"):
        residuals = reconciling.reconcile(database, lines, project_by)
        if not dry_run:
            reconciling.store_invoice(database, lines)
    _show(residuals, as_json=as_json)
    billed = sum((residual.invoiced for residual in residuals), Decimal(0))
    unexplained = sum((abs(residual.unexplained) for residual in residuals), Decimal(0))
    if not as_json:
        total = sum((residual.ledger for residual in residuals), Decimal(0))
        console().print(
            f"\ninvoiced {usd(billed)}, ledger {usd(total)}, residual {usd(billed - total)}; "
            f"unexplained {usd(unexplained)} ({share(unexplained, billed)} of the invoice)"
        )
    outside = sum((residual.causes["outside"] for residual in residuals), Decimal(0))
    if fail_over is not None and unexplained + outside > billed * Decimal(str(fail_over)) / 100:
        raise click.exceptions.Exit(1)


def _show(residuals: list[Residual], *, as_json: bool) -> None:
    if as_json:
        names = ("day", "provider", "project", "model", "invoiced_usd", "ledger_usd", "residual_usd",
                 *(f"{cause}_usd" for cause in CAUSES), "unexplained_usd")  # fmt: skip
        rows = [
            (r.day, r.provider, r.project, r.model, r.invoiced, r.ledger, r.residual, *r.causes.values(), r.unexplained)
            for r in residuals
        ]
    else:
        names = ("day", "provider", "project", "model", "invoiced_usd", "ledger_usd", "residual_usd", "explained by", "unexplained_usd")  # fmt: skip
        rows = [
            (r.day, r.provider, r.project, r.model, r.invoiced, r.ledger, r.residual, _explanation(r), r.unexplained)
            for r in residuals
        ]
    types = tuple("Decimal" if name.endswith("_usd") else "String" for name in names)
    show(Result(names, types, list(rows)), "Invoice and ledger (USD)", json_output=as_json)


def _explanation(residual: Residual) -> str:
    return ", ".join(f"{cause} {usd(amount)}" for cause, amount in residual.causes.items() if amount) or "-"


COMMANDS: Final = (reconcile,)
