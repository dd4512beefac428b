"""`spanledger who-forgot`: unattributed call sites with code owner, weekly cost and suggested fix."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

import click

from spanledger_clickhouse.cli.output import as_table, ledger, report_user_errors, show, spinner
from spanledger_clickhouse.database.ledger import Result
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.report.codeowners import CodeOwners, repository_owners

COLUMNS: Final = {
    "code": "String",
    "function": "String",
    "owner": "String",
    "reason": "String",
    "week_usd": "Decimal(38, 6)",
    "calls": "UInt64",
    "fix": "String",
}


class CallSite(NamedTuple):
    """A call site of the view `unattributed_spend`."""

    file: str
    line: int
    function: str
    reason: str
    lost_at: str
    cost_usd: Decimal | None
    calls: int
    without_feature: int
    without_user: int
    without_request: int
    last_call: datetime


@click.command("who-forgot")
@click.option("--days", default=7, show_default=True, type=click.IntRange(1, 366), help="How many days back.")
@click.option("--top", default=50, show_default=True, type=click.IntRange(1), help="How many call sites.")
@as_table
@report_user_errors
def who_forgot(days: int, top: int, as_json: bool) -> None:
    """List lines of code whose calls lack a feature, user or request. The most expensive stands first, with a suggested fix.

    Run it in the repository: the owner is looked up in its CODEOWNERS. reason is context_lost (no trace and no
    baggage: often a thread or a background job), no_baggage (a trace without baggage), stale (the request that has set
    it is over, and a worker that it started still runs) or partial (some of the baggage is missing).

    \b
    Example:
      spanledger who-forgot --days 30
    """
    until = datetime.now(UTC) + timedelta(seconds=1)  # the query has whole seconds
    times = {"since": until - timedelta(days=days), "until": until}
    query = statement(
        "cli/unattributed_call_sites",
        **{name: f"{moment:%Y-%m-%d %H:%M:%S}" for name, moment in times.items()},
    )
    with ledger() as database, spinner("querying the ledger"):
        sites = [CallSite(*row) for row in database.query(query, {"top": top}).rows]
    owners = repository_owners(Path.cwd())
    rows = [_row(site, owners, days) for site in sites]
    title = f"Calls of the last {days} days that are not fully attributed"
    show(
        Result(tuple(COLUMNS), tuple(COLUMNS.values()), rows), title, json_output=as_json, important=("fix", "week_usd")
    )


def _row(site: CallSite, owners: CodeOwners, days: int) -> tuple[object, ...]:
    week = None if site.cost_usd is None else site.cost_usd * 7 / days
    owner = " ".join(owners.owners_of(site.file)) if site.file else ""
    code = f"{owners.relative_path(site.file)}:{site.line}" if site.file else "(not known)"
    return (code, site.function, owner, site.reason, week, site.calls, suggested_fix(site))


def suggested_fix(site: CallSite) -> str:
    """The suggested fix of a call site (docs/attribution.md has more)."""
    if site.lost_at == "ingress":
        return "set baggage in the middleware of this service: the baggage of its caller was dropped"
    if site.reason == "stale":
        return "with spanledger.attribution(user=..., feature=...):  # for each piece of the worker's work"
    name = site.function.rpartition(".")[2].strip("<>")
    is_script = name == "module"
    if site.reason == "context_lost" and not is_script:
        return 'with spanledger.carried(job["spanledger"]):  # and spanledger.carry() where the job is created'
    missing = (
        (site.without_user, "user=..."),
        (site.without_feature, "feature=..." if is_script or not name else f'feature="{name}"'),
        (site.without_request and not is_script, "request_id=..."),
    )
    lacking = [word for count, word in missing if count]
    if len(lacking) == 1 and site.without_feature and name and not is_script:
        return f'@spanledger.feature("{name}")  # above {site.function}'
    return f"with spanledger.attribution({', '.join(lacking)}):"


COMMANDS: Final = (who_forgot,)
