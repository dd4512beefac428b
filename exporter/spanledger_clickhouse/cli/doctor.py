"""`spanledger doctor`: whether calls would be recorded here, shipped, priced and attributed; and what to do if not."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from rich.markup import escape

from spanledger import diagnostics
from spanledger.diagnostics import FAILURE, OK, WARNING, Finding
from spanledger.limits.policy import Policy
from spanledger.limits.policy_documents import PolicyError, load, published
from spanledger.limits.store.protocol import StoreError
from spanledger.limits.store.redis import RedisStore
from spanledger.pricing.price_table import prices
from spanledger.runtime import settings
from spanledger_clickhouse.alerts import delivery_log
from spanledger_clickhouse.budgets import table as budget_table
from spanledger_clickhouse.budgets.publish import PATIENCE_SECONDS, shared_store
from spanledger_clickhouse.cli.output import as_json, console
from spanledger_clickhouse.cli.price_tables import OLD_DAYS
from spanledger_clickhouse.database import migrations
from spanledger_clickhouse.database.connection import DatabaseError, connected, denied, target
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.ship import dead_letters, shipper

MARKS: Final = {OK: "[green]ok[/green]     ", WARNING: "[yellow]warning[/yellow]", FAILURE: "[red]FAILURE[/red]"}

NAMED: Final = 5
"""Budgets that are named."""
LATE_SECONDS: Final = 300
"""Rows that wait longer than this are not being shipped."""

HOLES: Final = "SELECT sum(missing_rows), countIf(announced = 0) FROM ledger_holes"

LAST_DAY: Final = """
SELECT count(), countIf(unpriced_reason != ''), countIf(attribution_reason != '')
FROM llm_calls FINAL WHERE start_time > now() - INTERVAL 1 DAY
"""


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Look at everything between a call and its row; exit status 1 where something is broken.

    Run it in the environment, and with the settings, of the application.

    \b
    Example:
      spanledger doctor --json
    """
    findings = [
        *diagnostics.entry_points(),
        *diagnostics.environment(),
        *diagnostics.sdks(),
        *_limits(),
        *_spool(),
        *_prices(),
        *_database(),
    ]
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for finding in findings:
            console().print(f"{MARKS[finding.status]}  {escape(f'{finding.about}: {finding.text}')}")
            if finding.advice:
                console().print(f"         {escape(finding.advice)}")
    if any(finding.status == FAILURE for finding in findings):
        raise SystemExit(1)


def _limits() -> Iterator[Finding]:
    """Whether budgets are enforced here, and by what."""
    path, url = settings.setting("limits"), settings.setting("redis_url")
    if path is None and url is None:
        yield Finding(OK, "limits", "not enforced: no call is refused (docs/limits.md)")
        return
    try:
        policy = load(path) if path is not None else Policy(enforce=True)
        if url is not None:
            policy = policy.with_published(published(RedisStore(url, PATIENCE_SECONDS).controls().published))
    except (PolicyError, StoreError) as error:
        advice = "until it is mended, calls pass unless a budget fails closed"
        yield Finding(FAILURE, "limits", str(error), advice)
        return
    counter_scope = "for all processes of the same Redis" if url is not None else "in each process for itself"
    who = "asked by every call" if policy.enforce else "asked only by the application's own code (enforce = false)"
    names = ", ".join(budget.name for budget in policy.budgets[:NAMED]) + (", ..." if len(policy.budgets) > NAMED else "")
    text = f"{len(policy.budgets)} budgets{f' ({names})' if names else ''}, counted {counter_scope}, {who}"
    if policy.budgets:
        yield Finding(OK, "limits", text)
    else:
        yield Finding(WARNING, "limits", text, "see `spanledger budget set --help`")


def _spool() -> Iterator[Finding]:
    directory = settings.spool_dir()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        advice = "set SPANLEDGER_SPOOL_DIR to a directory that the application may write"
        yield Finding(FAILURE, "spool", f"{directory} cannot be written: {error.strerror}", advice)
        return
    waiting = shipper.waiting(directory)
    used = sum(entry.stat().st_size for entry in os.scandir(directory) if entry.is_file())
    age = shipper.oldest(directory)
    text = f"{directory} holds {used:,} bytes, {waiting:,} of them not shipped yet"
    destination = settings.setting("otlp_endpoint") or settings.setting("dsn")
    if destination and age > LATE_SECONDS:
        advice = "is the application's shipper, or `spanledger ship --follow`, running, and its destination reachable?"
        yield Finding(FAILURE, "spool", f"{text}, the oldest for {age:,.0f} s", advice)
    else:
        yield Finding(OK, "spool", text)
    if destination:
        yield _shipper(directory, waiting)
    dead = sum(1 for _ in dead_letters.letters(directory))
    if dead:
        yield Finding(WARNING, "dead letters", f"{dead} rows were refused", "see `spanledger ship --dead`")


def _shipper(directory: Path, waiting: int) -> Finding:
    """Whether a process ships the spool at the moment: the application's thread, or a sidecar."""
    try:
        with shipper.sole_shipper(directory):
            alive = False
    except shipper.BusyError:
        alive = True
    if alive:
        return Finding(OK, "shipper", "a process ships the spool")
    if not waiting:
        return Finding(OK, "shipper", "no process ships the spool now, and nothing waits in it")
    advice = "start the application, or `spanledger ship --follow`; `spanledger ship` sends what waits now"
    return Finding(WARNING, "shipper", "no process ships the spool now", advice)


def _prices() -> Iterator[Finding]:
    live = prices().live
    age = (datetime.now(UTC).date() - live.dated).days if live.dated else None
    text = f"{live.source} {live.version}, {len(live.models):,} models, sha256 {live.sha256[:12]}"
    if age is not None and age > OLD_DAYS:
        advice = "pip install a newer spanledger, or set SPANLEDGER_PRICES_FILE to a newer litellm wheel"
        yield Finding(WARNING, "prices", f"{text}, {age} days old", advice)
    else:
        yield Finding(OK, "prices", text)


def _database() -> Iterator[Finding]:
    try:
        ledger_target = target()
        with connected(ledger_target) as client:
            pending = [
                migration.name for migration in migrations.pending(client, ledger_target, migrations.topology(), whole=True)
            ]
            fresh = ledger_target.embedded and len(pending) == len(migrations.migrations(ledger_target.database))
            if pending and not fresh:
                text = f"{len(pending)} objects of the schema of {ledger_target.shown} are not up to date"
                yield Finding(WARNING, "schema", text, "run `spanledger migrate`")
                return
            if not pending:
                yield Finding(OK, "database", f"{ledger_target.shown}, schema up to date")
                client.database = ledger_target.database
                client.command(f"USE `{ledger_target.database}`") if ledger_target.embedded else None
                yield from _last_day(Ledger(client, ledger_target))
            else:
                yield Finding(OK, "database", f"{ledger_target.shown}, empty: the first command fills it")
    except DatabaseError as error:
        if denied(error):  # an application's user, who may add rows and no more
            yield Finding(OK, "database", "reached; this user may not read it: ask with a reader for what is in it")
            return
        yield Finding(FAILURE, "database", str(error), "rows wait in the spool until it can be reached")


def _last_day(ledger: Ledger) -> Iterator[Finding]:
    calls, unpriced, unattributed = ledger.query(LAST_DAY).rows[0]
    for count, what, advice in (
        (unpriced, "without a price", 'see `spanledger sql "SELECT * FROM unpriced_calls"` and docs/pricing.md'),
        (unattributed, "not fully attributed", "see `spanledger who-forgot`"),
    ):
        text = f"{count:,} of {calls:,} calls of the last day are {what}"
        yield Finding(WARNING, "ledger", text, advice) if count else Finding(OK, "ledger", text)
    for problem in budget_table.document(ledger)[1]:
        yield Finding(FAILURE, "budgets", problem, "until then it neither tells nor is it enforced")
    counts = ledger.query(
        "SELECT count(), countIf(scope = 'user' OR per = 'user' OR mapContains(dimensions, 'user')) FROM budgets FINAL"
    ).rows[0]
    if not all(counts):
        what = "no budget is set" if not counts[0] else "no budget limits a single user"
        yield Finding(WARNING, "budgets", what, "see `spanledger budget set --help`")
    else:
        yield Finding(OK, "budgets", f"{counts[0]:,} are set")
    yield from _published(ledger)
    dead = len(delivery_log.dead(ledger))
    if dead:
        text = f"{dead:,} messages about budgets were given up"
        yield Finding(WARNING, "alerts", text, "see `spanledger guard --dead`")
    missing, unannounced = ledger.query(HOLES).rows[0]
    if missing:
        advice = (
            'see `spanledger sql "SELECT * FROM ledger_holes"`; rows still in a spool close their hole when shipped'
        )
        text = f"{missing:,} rows are missing, {unannounced:,} of the holes without a word from their process"
        yield Finding(FAILURE if unannounced else WARNING, "holes", text, advice)
    else:
        yield Finding(OK, "holes", "every process's numbers are complete")


def _published(ledger: Ledger) -> Iterator[Finding]:
    """Whether what is enforced is what the ledger has."""
    try:
        store = shared_store()
        redis_budgets = store.controls().published if store is not None else None
    except StoreError:
        return  # it is said where limits are looked at
    ledger_budgets = budget_table.document(ledger)[0]
    if (redis_budgets or ledger_budgets["budget"]) and redis_budgets is not None and redis_budgets != budget_table.as_json(ledger_budgets):
        text = "what is enforced by way of Redis is not what this ledger has"
        yield Finding(WARNING, "budgets", text, "`spanledger budget publish`, if this is the ledger that they are from")


COMMANDS: Final = (doctor,)
