"""`spanledger doctor`: checks that calls are recorded, shipped, priced and attributed here, and suggests fixes."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click
from rich.markup import escape

from spanledger import diagnostics
from spanledger.diagnostics import FAILURE, OK, WARNING, Finding
from spanledger.limits.policy import Policy
from spanledger.limits.policy_documents import PolicyError, load, policy_from_json
from spanledger.limits.store.protocol import StoreError
from spanledger.limits.store.redis import RedisStore
from spanledger.pricing.price_table import prices
from spanledger.runtime import notices, private_directory, settings
from spanledger.runtime.file_locks import Lock, try_lock
from spanledger_clickhouse.alerts import delivery_log
from spanledger_clickhouse.budgets import table as budget_table
from spanledger_clickhouse.budgets.publish import REDIS_TIMEOUT_SECONDS, shared_store
from spanledger_clickhouse.cli.output import as_table, console
from spanledger_clickhouse.cli.price_tables import STALE_DAYS
from spanledger_clickhouse.database import migrations
from spanledger_clickhouse.database.connection import DatabaseError, is_access_denied, open_client, resolve_target
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement
from spanledger_clickhouse.money import usd
from spanledger_clickhouse.printable import visible
from spanledger_clickhouse.ship import dead_letters, shipper
from spanledger_clickhouse.ship.sinks import OtlpSink

MARKS: Final = {OK: "[green]ok[/green]     ", WARNING: "[yellow]warning[/yellow]", FAILURE: "[red]FAILURE[/red]"}

MAX_BUDGET_NAMES: Final = 5
"""Budgets that are listed by name."""
CONNECT_SECONDS: Final = 3.0
STALE_SPOOL_SECONDS: Final = 300
"""Rows that wait longer than this are not being shipped."""

NOTICE_SECONDS: Final = 86_400
"""For how long doctor repeats what an application has said."""

HOLES: Final = "SELECT sum(missing_rows), countIf(announced = 0), sum(missing_cost_usd) FROM ledger_holes"


UNREAD: Final = """
SELECT count() AS calls, provider, concat(server_address, if(attributes['url.port'] = '', '', ':'), attributes['url.port']) AS host,
       attributes['url.path'] AS path, any(request_model) AS model
FROM llm_calls FINAL
WHERE (operation = 'unknown' OR scope = 'spanledger.http') AND price_status = 'unpriced:no_usage' AND outcome != 'error'
  AND start_time > now() - INTERVAL 7 DAY
GROUP BY provider, host, path ORDER BY calls DESC LIMIT 5
"""
"""What crossed to a host that serves models, and nobody could read."""
EVIDENCE: Final = """
SELECT evidence, ifNull(sum(cost_usd), 0) AS cost FROM llm_calls FINAL
WHERE start_time > now() - INTERVAL 30 DAY AND evidence NOT IN ('', 'unpriced') GROUP BY evidence ORDER BY cost DESC
"""
NEW_FLAGS: Final = "SELECT provider, model, flag, calls, unread FROM new_price_flags ORDER BY calls DESC LIMIT 5"
PROCESSES: Final = "SELECT uniqExact(process_id) FROM llm_calls WHERE process_id != ''"


@click.command()
@as_table
def doctor(as_json: bool) -> None:
    """Check everything between a call and its row. Exit status 1 if something is broken.

    Run it in the environment, and with the settings, of the application.

    \b
    Example:
      spanledger doctor --json
    """
    findings = [
        *diagnostics.entry_points(),
        *diagnostics.environment(),
        *diagnostics.sdks(),
        *diagnostics.http_clients(),
        *_limits(),
        *_spool(),
        *_prices(),
        *_destination(),
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
    """Checks whether budgets are enforced here, and where they are counted."""
    path, url = settings.setting("limits"), settings.setting("redis_url")
    if path is None and url is None:
        yield Finding(OK, "limits", "not enforced: no call is refused (docs/limits.md)")
        return
    try:
        policy = load(path) if path is not None else Policy(enforce=True)
        if url is not None:
            policy = policy.with_published(
                policy_from_json(RedisStore(url, REDIS_TIMEOUT_SECONDS).controls().published)
            )
    except (PolicyError, StoreError) as error:
        advice = "until it is fixed, calls pass unless a budget fails closed"
        yield Finding(FAILURE, "limits", str(error), advice)
        return
    counter_scope = "across all processes of this Redis" if url is not None else "in each process separately"
    who = "checked on every call" if policy.enforce else "checked only by the application's own code (enforce = false)"
    names = ", ".join(budget.name for budget in policy.budgets[:MAX_BUDGET_NAMES]) + (
        ", ..." if len(policy.budgets) > MAX_BUDGET_NAMES else ""
    )
    text = f"{len(policy.budgets)} budgets{f' ({names})' if names else ''}, counted {counter_scope}, {who}"
    if policy.budgets:
        yield Finding(OK, "limits", text)
    else:
        yield Finding(WARNING, "limits", text, "see `spanledger budget set --help`")


def _spool() -> Iterator[Finding]:
    own = settings.spool_dir()
    fallback = settings.fallback_spool_dir(own)
    problem, has_locks = _write_problem(own)
    if not has_locks:
        text = f"the file system of {own} has no locks (flock): files are removed ten minutes after their last write"
        yield Finding(WARNING, "spool directory", text, "set SPANLEDGER_SPOOL_DIR to a local disk")
    if problem:
        advice = (
            "set SPANLEDGER_SPOOL_DIR to a directory that the application can write to, and that survives a restart"
        )
        worse, _ = _write_problem(fallback)
        where = f"{fallback} neither ({worse}): rows stay in memory" if worse else f"rows go to {fallback}"
        yield Finding(
            FAILURE if worse else WARNING, "spool directory", f"{own} cannot be written ({problem}), {where}", advice
        )
    directories = [path for path in shipper.spool_directories(undecided=True) if path.is_dir()]
    for directory in directories:
        yield from _contents(directory)
    for directory, name in shipper.other_spools(directories):
        text = f"{directory} holds rows for {name or 'a destination that is not the one of these settings'}"
        advice = f"send them with the settings of that application, or here: SPANLEDGER_SPOOL_DIR={directory} spanledger ship"
        yield Finding(WARNING, "other spool", text, advice)
    if settings.destination() and own.is_dir():
        yield _shipper(own, shipper.waiting_bytes(own))
    yield from _notices(directories)


def _write_problem(directory: Path) -> tuple[str, bool]:
    """Why no file can be made in a directory, which is made if it is not there (empty: one can); whether it has locks."""
    try:
        private_directory.make(directory)
        with tempfile.TemporaryFile(dir=directory) as file:
            return "", try_lock(file.fileno()) is not Lock.UNSUPPORTED
    except OSError as error:
        return error.strerror or type(error).__name__, True


def _contents(directory: Path) -> Iterator[Finding]:
    waiting = shipper.waiting_bytes(directory)
    used = sum(entry.stat().st_size for entry in os.scandir(directory) if entry.is_file())
    age = shipper.oldest_age_seconds(directory)
    text = f"{directory} holds {used:,} bytes, {waiting:,} of them not shipped yet"
    if settings.destination() and age > STALE_SPOOL_SECONDS:
        advice = "is the application's shipper, or `spanledger ship --follow`, running, and its destination reachable?"
        yield Finding(FAILURE, "spool", f"{text}, the oldest for {age:,.0f} s", advice)
    else:
        yield Finding(OK, "spool", text)
    in_memory = shipper.rows_in_memory(directory)
    if in_memory:
        advice = "they are lost if that process ends before the disk or the destination takes them"
        yield Finding(WARNING, "memory", f"{in_memory:,} rows wait in the memory of processes that write here", advice)
    dead = sum(1 for _ in dead_letters.list_entries(directory))
    if dead:
        yield Finding(WARNING, "dead letters", f"{dead} rows were refused", "see `spanledger ship --dead`")


def _notices(directories: list[Path]) -> Iterator[Finding]:
    """What applications that write here have said about their surroundings in the last day."""
    since = time.time() - NOTICE_SECONDS
    for notice in sorted(notice for directory in directories for notice in notices.read(directory)):
        if notice.at >= since:
            when = datetime.fromtimestamp(notice.at, UTC).isoformat(timespec="minutes")
            yield Finding(WARNING, f"{visible(notice.service)}, {when}", visible(notice.text))


def _shipper(directory: Path, waiting: int) -> Finding:
    """Checks whether a process ships the spool now: the application's thread, or a sidecar."""
    try:
        with shipper.exclusive_shipper(directory):
            alive = False
    except shipper.BusyError:
        alive = True
    if alive:
        return Finding(OK, "shipper", "a process ships the spool")
    if not waiting:
        return Finding(OK, "shipper", "no process ships the spool now, and nothing waits in it")
    advice = "is the application running, or `spanledger ship --follow`? `spanledger ship` sends what waits now"
    text = "no process ships the spool at this moment; one whose destination does not answer pauses up to a minute"
    return Finding(WARNING, "shipper", text, advice)


def _prices() -> Iterator[Finding]:
    for problem in prices().problems:
        yield Finding(WARNING, "prices", problem, "correct the setting, then check it: spanledger prices check")
    live = prices().live
    age = (datetime.now(UTC).date() - live.dated).days if live.dated else None
    text = f"{live.source} {live.version}, {len(live.models):,} models, sha256 {live.sha256[:12]}"
    if age is not None and age > STALE_DAYS:
        advice = "pip install a newer spanledger, or set SPANLEDGER_PRICES_FILE to a newer litellm wheel"
        yield Finding(WARNING, "prices", f"{text}, {age} days old", advice)
    else:
        yield Finding(OK, "prices", text)


def _destination() -> Iterator[Finding]:
    """Checks the Collector if there is one, which has the ledger behind it, else the database."""
    endpoint = settings.setting("otlp_endpoint")
    if endpoint:
        yield _collector(endpoint)
    elif settings.setting("dsn") is None and importlib.util.find_spec("chdb") is None:
        text = "there is no embedded engine in this environment, and the application needs none"
        yield Finding(OK, "database", text, "ask with the command that was installed with 'spanledger[embedded]'")
    else:
        yield from _database()


def _collector(endpoint: str) -> Finding:
    """Checks that somebody takes connections at the Collector's address."""
    try:
        shown = OtlpSink(endpoint).shown
        parts = urlsplit(endpoint)
        address = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection(address, CONNECT_SECONDS):
            return Finding(OK, "collector", f"{shown} takes connections; the ledger is behind it")
    except DatabaseError as error:
        return Finding(FAILURE, "collector", str(error), "set SPANLEDGER_OTLP_ENDPOINT to http://host:4318")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        text = f"{settings.mask_credentials(endpoint)} cannot be reached: {reason}"
        return Finding(
            FAILURE, "collector", text, "start it, or correct SPANLEDGER_OTLP_ENDPOINT; rows wait in the spool"
        )


def _database() -> Iterator[Finding]:
    try:
        ledger_target = resolve_target()
        with open_client(ledger_target) as client:
            pending = [
                migration.name
                for migration in migrations.pending(client, ledger_target, migrations.topology(), whole=True)
            ]
            fresh = ledger_target.embedded and len(pending) == len(migrations.migrations(ledger_target.database))
            if pending and not fresh:
                text = f"{len(pending)} objects of the schema of {ledger_target.masked_dsn} are not up to date"
                yield Finding(WARNING, "schema", text, "run `spanledger migrate`")
                return
            if not pending:
                yield Finding(OK, "database", f"{ledger_target.masked_dsn}, schema up to date")
                client.database = ledger_target.database
                client.command(f"USE `{ledger_target.database}`") if ledger_target.embedded else None
                yield from _last_day(Ledger(client, ledger_target))
            else:
                yield Finding(OK, "database", f"{ledger_target.masked_dsn}, empty: the first command fills it")
    except DatabaseError as error:
        if is_access_denied(error):  # an application's user, who may add rows and no more
            yield Finding(
                OK, "database", "reachable; this user has no read access: run doctor as a reader to check the contents"
            )
            return
        dsn = settings.setting("dsn")
        what = "SPANLEDGER_DSN, if its host, port or user is wrong" if dsn else "XDG_STATE_HOME to a writable directory"
        yield Finding(FAILURE, "database", str(error), f"set {what}; rows wait in the spool meanwhile")


def _last_day(ledger: Ledger) -> Iterator[Finding]:
    calls, unpriced, unattributed = ledger.query(statement("cli/last_day")).rows[0]
    for count, what, advice in (
        (unpriced, "without a price", 'see `spanledger sql "SELECT * FROM unpriced_calls"` and docs/pricing.md'),
        (unattributed, "not fully attributed", "see `spanledger who-forgot`"),
    ):
        text = f"{count:,} of {calls:,} calls of the last day are {what}"
        yield Finding(WARNING, "ledger", text, advice) if count else Finding(OK, "ledger", text)
    for problem in budget_table.document(ledger)[1]:
        yield Finding(FAILURE, "budgets", problem, "until it is fixed, the budget is neither evaluated nor enforced")
    counts = ledger.query(
        "SELECT count(), countIf(scope = 'user' OR per = 'user' OR mapContains(dimensions, 'user')) FROM budgets FINAL"
    ).rows[0]
    if not all(counts):
        what = "no budget is set" if not counts[0] else "no budget limits a single user"
        yield Finding(WARNING, "budgets", what, "see `spanledger budget set --help`")
    else:
        yield Finding(OK, "budgets", f"{counts[0]:,} are set")
    yield from _redis_drift(ledger)
    dead = len(delivery_log.dead_letters(ledger))
    if dead:
        text = f"{dead:,} budget alerts could not be delivered"
        yield Finding(WARNING, "alerts", text, "see `spanledger guard --dead`")
    missing, unannounced, cost = ledger.query(HOLES).rows[0]
    if missing:
        advice = 'see `spanledger sql "SELECT * FROM ledger_holes"`; rows still in a spool close their gap when shipped'
        amount = f", which cost {usd(cost)}" if cost else ""
        text = (
            f"{missing:,} rows are missing{amount}; {unannounced:,} gaps are unexplained (the process reported no loss)"
        )
        yield Finding(FAILURE if unannounced else WARNING, "holes", text, advice)
    else:
        process_count = ledger.query(PROCESSES).rows[0][0]
        text = f"no row number is missing of the {process_count:,} processes that this ledger knows of"
        yield Finding(OK, "holes", text)
    yield from _evidence(ledger)
    unread = ledger.query(UNREAD).rows
    if unread:
        calls = ", ".join(
            f"{count:,} to {host}{path or ''} as {provider}{f' ({model})' if model else ''}"
            for count, provider, host, path, model in unread
        )
        yield Finding(
            WARNING,
            "unread answers",
            f"calls of the last 7 days that may have been billed, and state no usage: {calls}",
            'see "What cannot be read" in docs/http.md',
        )


def _evidence(ledger: Ledger) -> Iterator[Finding]:
    """How much of the spend of the last 30 days is exact, and what came into doubt in the last day."""
    rows = ledger.query(EVIDENCE).rows
    total = sum((cost for _, cost in rows), Decimal(0))
    if total:
        shares = ", ".join(f"{evidence} {cost / total:.1%}" for evidence, cost in rows if cost)
        yield Finding(OK, "evidence", f"of the spend of the last 30 days: {shares} (view price_evidence)")
    for provider, model, flag, calls, unread in ledger.query(NEW_FLAGS).rows:
        text = (
            f"{calls:,} calls of {provider} {model} have {flag}{f' ({unread})' if unread else ''} since less than a day"
        )
        yield Finding(WARNING, "evidence", text, 'see "Evidence" in docs/pricing.md')


def _redis_drift(ledger: Ledger) -> Iterator[Finding]:
    """Checks that the budgets in Redis are those of the ledger."""
    try:
        store = shared_store()
        redis_budgets = store.controls().published if store is not None else None
    except StoreError:
        return  # _limits reports it
    ledger_budgets = budget_table.document(ledger)[0]
    if (
        (redis_budgets or ledger_budgets["budget"])
        and redis_budgets is not None
        and redis_budgets != budget_table.as_json(ledger_budgets)
    ):
        text = "the budgets in Redis are not those of this ledger"
        yield Finding(WARNING, "budgets", text, "run `spanledger budget publish` if this ledger is the right source")


COMMANDS: Final = (doctor,)
