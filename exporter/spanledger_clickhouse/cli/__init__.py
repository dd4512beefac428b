"""The `spanledger` command."""

from __future__ import annotations

from typing import Final

import click

from spanledger.runtime.file_locks import IS_POSIX
from spanledger.runtime.version import VERSION
from spanledger_clickhouse.cli.groups import Lazy, LazyGroup

_HERE: Final = "spanledger_clickhouse.cli"
SECTIONS: Final = {
    "Look": {
        "spend": Lazy(f"{_HERE}.spend", "Show spend by feature, user, model, day or any other dimensions."),
        "top": Lazy(f"{_HERE}.top", "Show current spend, refreshed, highest first."),
        "ui": Lazy(f"{_HERE}.ui", "Open the ledger as a page in the browser."),
        "report": Lazy(f"{_HERE}.report", "Report the spend of a period, its trend, forecast and data quality."),
        "mcp": Lazy(f"{_HERE}.mcp", "Answer questions about spend to an assistant, over MCP."),
        "sql": Lazy(f"{_HERE}.spend", "Query the ledger in SQL."),
        "export": Lazy(f"{_HERE}.export", "Export the calls of a period, or their usage in FOCUS columns."),
    },
    "Explain": {
        "request": Lazy(f"{_HERE}.spend", "List the LLM calls of one application request."),
        "run": Lazy(f"{_HERE}.run", "Show where the cost of an agent's run went."),
        "who-forgot": Lazy(f"{_HERE}.who_forgot", "List lines of code whose calls lack a feature, user or request."),
        "ci-diff": Lazy(f"{_HERE}.ci_diff", "Compare the cost of two test runs, BASE and HEAD."),
        "prices": Lazy(f"{_HERE}.prices", "Show the price tables in force: source, version, checksum and age."),
        "reconcile": Lazy(f"{_HERE}.reconcile", "Compare invoices with the ledger, and name what differs."),
        "close": Lazy(f"{_HERE}.reconcile", "Seal MONTH's ledger and invoice; without MONTH, list sealed ones."),
    },
    "Budgets": {
        "budget": Lazy(f"{_HERE}.budget", "Set budgets, and show their status."),
        "guard": Lazy(f"{_HERE}.guard", "Alert when budgets reach their thresholds."),
        "stop": Lazy(f"{_HERE}.stop", "Refuse the calls of a user, feature, tenant or tier at once."),
        "resume": Lazy(f"{_HERE}.stop", "Lift a stop."),
        "assign": Lazy(f"{_HERE}.assign", "Assign services and features to teams and projects."),
        "contract": Lazy(f"{_HERE}.contract", "Keep discounts, credits and commitments of providers."),
        "rates": Lazy(f"{_HERE}.reconcile", "Keep exchange rates, for other currencies than USD."),
    },
    "Operate": {
        "demo": Lazy(f"{_HERE}.demo", "See it work: an application with three SDKs, on this machine."),
        "doctor": Lazy(f"{_HERE}.doctor", "Check everything between a call and its row."),
        "ship": Lazy(f"{_HERE}.maintenance", "Send the rows that wait in the spool."),
        "gateway": Lazy(f"{_HERE}.gateway", "Receive spans over OTLP/HTTP and write them to ClickHouse."),
        "migrate": Lazy(f"{_HERE}.maintenance", "Create the ledger's tables and views, or bring them up to date."),
        "reprice": Lazy(f"{_HERE}.maintenance", "Reprice calls with the current price tables."),
        "rollup": Lazy(f"{_HERE}.maintenance", "Rebuild the rollups of the days whose calls have changed."),
        "verify": Lazy(f"{_HERE}.maintenance", "Compare the rollups with the calls."),
        "rights": Lazy(f"{_HERE}.maintenance", "Print SQL for least-privilege users."),
        "completion": Lazy(f"{_HERE}.completion", "Print the completion script of a SHELL."),
    },
}
"""What the commands are for. A command's summary is the first sentence of its help (a test holds them together): `--help`
imports none of them."""


@click.group(
    cls=LazyGroup, sections=SECTIONS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(VERSION, prog_name="spanledger")
def main() -> None:
    """Report what your LLM features cost, by feature, user and request.

    Query commands first load the rows that wait in the spool. They query the database of SPANLEDGER_DSN, or the
    embedded database in ~/.local/state/spanledger if that is not set.
    """
    if not IS_POSIX:
        raise click.ClickException("this system has no fcntl: Spanledger needs Linux, macOS or another POSIX system")


__all__ = ["main"]
