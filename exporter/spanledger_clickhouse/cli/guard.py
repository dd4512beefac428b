"""`spanledger guard`: tells of budgets that run short, and keeps Redis right."""

from __future__ import annotations

import secrets
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import click

from spanledger.limits.periods import window
from spanledger.limits.policy import Budget
from spanledger_clickhouse.budgets.publish import publish
from spanledger_clickhouse.budgets.status import Standing
from spanledger_clickhouse.cli.output import as_json, console, ledger, reported, show
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.database.ledger import Result

if TYPE_CHECKING:
    from spanledger_clickhouse.alerts.delivery_log import Told
    from spanledger_clickhouse.alerts.destinations import Destination

COLUMNS: Final = {"at": "DateTime", "destination": "String", "budget": "String", "value": "String", "attempts": "UInt16", "error": "String"}  # fmt: skip


@click.command()
@click.option("--once", is_flag=True, help="Look once and end (cron); exit status 1 where a message was given up.")
@click.option("--every", default=60, show_default=True, type=click.IntRange(5, 3600), help="Seconds between two looks.")
@click.option("--test", "tested", is_flag=True, help="Send each destination a message that says it is a test.")
@click.option("--dead", is_flag=True, help="List the messages that were given up.")
@click.option("--retry", is_flag=True, help="With --dead: send them again.")
@click.option("--dismiss", is_flag=True, help="With --dead: have no more of them.")
@as_json
@reported
def guard(once: bool, every: int, tested: bool, dead: bool, retry: bool, dismiss: bool, as_json: bool) -> None:
    """Watch every budget and tell of its thresholds, each once in a period: Slack, PagerDuty, webhooks.

    SPANLEDGER_SLACK_WEBHOOK, SPANLEDGER_PAGERDUTY_KEY and SPANLEDGER_ALERT_WEBHOOK say where. What a destination does not take
    is tried five times, then kept: --dead lists it, --dead --retry sends it again. Any number of guards may run; where no
    destination is set, messages are printed and remain to be told. With SPANLEDGER_REDIS_URL the guard also publishes the
    budgets there, and tells Redis what only the ledger knows.

    \b
    Examples:
      SPANLEDGER_SLACK_WEBHOOK=https://hooks.slack.com/services/... spanledger guard
      spanledger guard --test
      spanledger guard --dead --retry
    """
    from spanledger_clickhouse.alerts import destinations

    if (retry or dismiss) and not dead:
        raise click.UsageError("--retry and --dismiss go with --dead")
    if retry and dismiss:
        raise click.UsageError("--retry and --dismiss are two things")
    if once + tested + dead > 1:
        raise click.UsageError("--once, --test and --dead are three things")
    if as_json and (not dead or retry or dismiss):
        raise click.UsageError("--json goes with --dead")
    found = destinations.configured()
    if (tested or retry) and not found:
        raise click.ClickException(
            "no destination is set: SPANLEDGER_SLACK_WEBHOOK, SPANLEDGER_PAGERDUTY_KEY, SPANLEDGER_ALERT_WEBHOOK (docs/budgets.md)"
        )
    if tested:
        done = _tests(found)
        _say(done)
        _ended(done)
    elif dead:
        _dead(found, retry=retry, dismiss=dismiss, as_json=as_json)
    elif once:
        _ended(_pass(found))
    else:
        _watch(found, every)


def _dead(found: Sequence[Destination], *, retry: bool, dismiss: bool, as_json: bool) -> None:
    """What was given up: listed, sent again, or dismissed."""
    from spanledger_clickhouse.alerts import delivery_log

    with ledger() as opened:
        if dismiss:
            click.echo(f"{delivery_log.dismiss(opened)} messages are dismissed")
            return
        if not retry:
            rows = [row[:6] for row in delivery_log.dead(opened)]
            show(
                Result(tuple(COLUMNS), tuple(COLUMNS.values()), rows),
                "Messages that were given up",
                json_output=as_json,
            )
            return
        done, nowhere = delivery_log.retry(opened, found)
    if nowhere:
        click.echo(f"{nowhere} messages are for a kind of destination that is not set any more", err=True)
    _say(done)
    _ended(done, failed=nowhere > 0)


def _watch(found: Sequence[Destination], every: int) -> None:
    where = ", ".join(each.shown for each in found) or "nobody (no destination is set): messages are only printed"
    click.echo(f"every {every} s; told: {where}", err=True)
    printed: set[str] = set()
    while True:
        began = time.monotonic()
        try:
            _pass(found, printed)
        except DatabaseError as error:
            click.echo(f"{datetime.now(UTC):%H:%M:%S} {error}", err=True)
        except Exception as error:  # noqa: BLE001 - whatever a driver comes up with: the next look may succeed
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} at {place.filename}:{place.lineno}"
            click.echo(f"{datetime.now(UTC):%H:%M:%S} a look failed with {what}", err=True)
        time.sleep(max(0.0, every - (time.monotonic() - began)))


def _pass(found: Sequence[Destination], printed: set[str] | None = None) -> list[Told]:
    """One look; what was told is printed, what is only printed not again if it is among `printed`. Raises DatabaseError,
    where Redis does not answer after having told."""
    from spanledger_clickhouse.alerts import evaluate

    trouble: DatabaseError | None = None
    with ledger() as opened:
        try:
            publish(opened, everybody=False)
        except DatabaseError as error:  # whoever is on call is told all the same
            trouble = error
        done = evaluate.look(opened, datetime.now(UTC), found)
    _say([each for each in done if each.destination or printed is None or each.alert not in printed])
    if printed is not None:
        printed |= {each.alert for each in done}
    if trouble is not None:
        raise trouble
    return done


def _tests(found: Sequence[Destination]) -> list[Told]:
    from spanledger_clickhouse.alerts.delivery_log import Told
    from spanledger_clickhouse.alerts.messages import Alert, payload

    at = datetime.now(UTC)
    budget = Budget("test", "month", 10**13)
    alert = Alert(Standing(budget, "", window("month", at), Decimal(8), Decimal(12)), 0.8, (("summarize", Decimal(5)),), (("ada", Decimal(3)),))  # fmt: skip
    text = "This is a test of spanledger guard: nothing is wrong"
    said: dict[str, Any] = {**payload(alert), "id": secrets.token_hex(16), "type": "test", "text": text}

    def sent(each: Destination) -> Told:
        return Told(text, each.shown, each.deliver(said))

    with ThreadPoolExecutor(len(found)) as pool:
        return list(pool.map(sent, found))


def _say(done: Sequence[Told]) -> None:
    for each in done:
        how = f" [{each.delivery.error or f'{each.destination}: delivered'}]" if each.destination else ""
        console().print(f"{each.text}{how}", markup=False)


def _ended(done: Sequence[Told], *, failed: bool = False) -> None:
    if failed or any(each.delivery.error for each in done):
        raise SystemExit(1)


COMMANDS: Final = (guard,)
