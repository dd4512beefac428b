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
    alert_destinations = destinations.configured()
    if (tested or retry) and not alert_destinations:
        raise click.ClickException(
            "no destination is set: SPANLEDGER_SLACK_WEBHOOK, SPANLEDGER_PAGERDUTY_KEY, SPANLEDGER_ALERT_WEBHOOK (docs/budgets.md)"
        )
    if tested:
        notifications = _tests(alert_destinations)
        _say(notifications)
        _ended(notifications)
    elif dead:
        _dead(alert_destinations, retry=retry, dismiss=dismiss, as_json=as_json)
    elif once:
        _ended(_pass(alert_destinations))
    else:
        _watch(alert_destinations, every)


def _dead(destinations: Sequence[Destination], *, retry: bool, dismiss: bool, as_json: bool) -> None:
    """What was given up: listed, sent again, or dismissed."""
    from spanledger_clickhouse.alerts import delivery_log

    with ledger() as database:
        if dismiss:
            click.echo(f"{delivery_log.dismiss(database)} messages are dismissed")
            return
        if not retry:
            rows = [row[:6] for row in delivery_log.dead(database)]
            show(
                Result(tuple(COLUMNS), tuple(COLUMNS.values()), rows),
                "Messages that were given up",
                json_output=as_json,
            )
            return
        notifications, nowhere = delivery_log.retry(database, destinations)
    if nowhere:
        click.echo(f"{nowhere} messages are for a kind of destination that is not set any more", err=True)
    _say(notifications)
    _ended(notifications, failed=nowhere > 0)


def _watch(destinations: Sequence[Destination], every: int) -> None:
    recipients = ", ".join(destination.shown for destination in destinations) or "nobody (no destination is set): messages are only printed"
    click.echo(f"every {every} s; told: {recipients}", err=True)
    printed: set[str] = set()
    while True:
        began = time.monotonic()
        try:
            _pass(destinations, printed)
        except DatabaseError as error:
            click.echo(f"{datetime.now(UTC):%H:%M:%S} {error}", err=True)
        except Exception as error:  # noqa: BLE001 - whatever a driver comes up with: the next look may succeed
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} at {place.filename}:{place.lineno}"
            click.echo(f"{datetime.now(UTC):%H:%M:%S} a look failed with {what}", err=True)
        time.sleep(max(0.0, every - (time.monotonic() - began)))


def _pass(destinations: Sequence[Destination], printed: set[str] | None = None) -> list[Told]:
    """One look; what was told is printed, what is only printed not again if it is among `printed`. Raises DatabaseError,
    where Redis does not answer after having told."""
    from spanledger_clickhouse.alerts import evaluate

    publish_error: DatabaseError | None = None
    with ledger() as database:
        try:
            publish(database, all_values=False)
        except DatabaseError as error:  # whoever is on call is told all the same
            publish_error = error
        notifications = evaluate.look(database, datetime.now(UTC), destinations)
    _say([notification for notification in notifications if notification.destination or printed is None or notification.alert not in printed])
    if printed is not None:
        printed |= {notification.alert for notification in notifications}
    if publish_error is not None:
        raise publish_error
    return notifications


def _tests(destinations: Sequence[Destination]) -> list[Told]:
    from spanledger_clickhouse.alerts.delivery_log import Told
    from spanledger_clickhouse.alerts.messages import Alert, payload

    now = datetime.now(UTC)
    budget = Budget("test", "month", 10**13)
    alert = Alert(Standing(budget, "", window("month", now), Decimal(8), Decimal(12)), 0.8, (("summarize", Decimal(5)),), (("ada", Decimal(3)),))  # fmt: skip
    text = "This is a test of spanledger guard: nothing is wrong"
    test_payload: dict[str, Any] = {**payload(alert), "id": secrets.token_hex(16), "type": "test", "text": text}

    def sent(destination: Destination) -> Told:
        return Told(text, destination.shown, destination.deliver(test_payload))

    with ThreadPoolExecutor(len(destinations)) as pool:
        return list(pool.map(sent, destinations))


def _say(notifications: Sequence[Told]) -> None:
    for notification in notifications:
        how = f" [{notification.delivery.error or f'{notification.destination}: delivered'}]" if notification.destination else ""
        console().print(f"{notification.text}{how}", markup=False)


def _ended(notifications: Sequence[Told], *, failed: bool = False) -> None:
    if failed or any(notification.delivery.error for notification in notifications):
        raise SystemExit(1)


COMMANDS: Final = (guard,)
