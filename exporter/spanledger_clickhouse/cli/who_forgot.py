"""`spanledger who-forgot`: code that loses who asked, whose it is, what it costs a week, and the line that mends it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

import click

from spanledger_clickhouse.cli.output import as_json, ledger, reported, show, working
from spanledger_clickhouse.database.ledger import Result
from spanledger_clickhouse.report.codeowners import CodeOwners, repository

LOST: Final = """
SELECT code_file, code_line, code_function, reason, lost_at, total_cost_usd, calls,
       calls_without_feature, calls_without_user, calls_without_request, last_call
FROM unattributed_spend_between(since = '{since}', until = '{until}') LIMIT {top}
"""

COLUMNS: Final = {
    "code": "String",
    "function": "String",
    "owner": "String",
    "reason": "String",
    "week_usd": "Decimal(38, 6)",
    "calls": "UInt64",
    "fix": "String",
}


class Site(NamedTuple):
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
@as_json
@reported
def who_forgot(days: int, top: int, as_json: bool) -> None:
    """Code whose calls lack a feature, user or request, dearest first, and the line that mends it.

    Run it in the repository: the owner is looked up in its CODEOWNERS. reason is context_lost (no trace and no
    baggage: often a thread or a background job), no_baggage (a trace, but nobody set baggage) or partial (some of it
    is missing).

    \b
    Example:
      spanledger who-forgot --days 30
    """
    until = datetime.now(UTC)
    times = {"since": until - timedelta(days=days), "until": until}
    query = LOST.format(top=top, **{name: f"{moment:%Y-%m-%d %H:%M:%S}" for name, moment in times.items()})
    with ledger() as database, working("asking the ledger"):
        sites = [Site(*row) for row in database.query(query).rows]
    owners = repository(Path.cwd())
    rows = [_row(site, owners, days) for site in sites]
    title = f"Calls of the last {days} days that are not fully attributed"
    show(Result(tuple(COLUMNS), tuple(COLUMNS.values()), rows), title, json_output=as_json)


def _row(site: Site, owners: CodeOwners, days: int) -> tuple[object, ...]:
    week = None if site.cost_usd is None else site.cost_usd * 7 / days
    owner = " ".join(owners.of(site.file)) if site.file else ""
    code = f"{owners.here(site.file)}:{site.line}" if site.file else "(not known)"
    return (code, site.function, owner, site.reason, week, site.calls, fix(site))


def fix(site: Site) -> str:
    """The line that mends a call site (docs/attribution.md has more)."""
    if site.lost_at == "ingress":
        return "set baggage in this service's middleware: what the caller's trace brought was dropped"
    if site.reason == "context_lost":
        return 'with spanledger.carried(job["spanledger"]):  # and spanledger.carry() where the job is made'
    if site.without_feature:
        name = site.function.rpartition(".")[2].strip("<>") or "name"
        return f'@spanledger.feature("{name}")  # above {site.function or "the function"}'
    lacking = [
        word for count, word in ((site.without_user, "user=..."), (site.without_request, "request_id=...")) if count
    ]
    return f"with spanledger.attribution({', '.join(lacking)}):"


COMMANDS: Final = (who_forgot,)
