"""The `spanledger` command."""

from __future__ import annotations

import click

from spanledger.runtime.file_locks import IS_POSIX
from spanledger.runtime.version import VERSION
from spanledger_clickhouse.cli import (
    assign,
    budget,
    ci_diff,
    completion,
    contract,
    demo,
    doctor,
    export,
    gateway,
    guard,
    maintenance,
    prices,
    reconcile,
    report,
    spend,
    stop,
    top,
    who_forgot,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="spanledger")
def main() -> None:
    """Report what your LLM features cost, by feature, user and request.

    Query commands first load the rows that wait in the spool. They query the database of SPANLEDGER_DSN, or the
    embedded database in ~/.local/state/spanledger if that is not set.
    """
    if not IS_POSIX:
        raise click.ClickException("this system has no fcntl: Spanledger needs Linux, macOS or another POSIX system")


for command in (
    *spend.COMMANDS,
    *who_forgot.COMMANDS,
    *report.COMMANDS,
    *reconcile.COMMANDS,
    *contract.COMMANDS,
    *top.COMMANDS,
    *export.COMMANDS,
    *budget.COMMANDS,
    *assign.COMMANDS,
    *stop.COMMANDS,
    *guard.COMMANDS,
    *maintenance.COMMANDS,
    *gateway.COMMANDS,
    *prices.COMMANDS,
    *doctor.COMMANDS,
    *demo.COMMANDS,
    *ci_diff.COMMANDS,
    *completion.COMMANDS,
):
    main.add_command(command)

__all__ = ["main"]
