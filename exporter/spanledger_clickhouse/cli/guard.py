"""`spanledger guard`: evaluates budgets, sends alerts, and publishes budgets and spend to Redis."""

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
from spanledger_clickhouse.budgets.status import BudgetStatus, Forecast
from spanledger_clickhouse.cli.output import as_table, console, ledger, report_user_errors, show
from spanledger_clickhouse.database.connection import DatabaseError
from spanledger_clickhouse.database.ledger import Result

if TYPE_CHECKING:
    from spanledger_clickhouse.alerts.delivery_log import DeliveryResult
    from spanledger_clickhouse.alerts.destinations import Destination

COLUMNS: Final = {"at": "DateTime", "destination": "String", "budget": "String", "value": "String", "attempts": "UInt16", "error": "String"}  # fmt: skip


@click.command()
@click.option(
    "--once", is_flag=True, help="Evaluate once and exit (cron); status 1 if an alert could not be delivered."
)
@click.option(
    "--every", default=60, show_default=True, type=click.IntRange(5, 3600), help="Seconds between evaluations."
)
@click.option("--test", "tested", is_flag=True, help="Send a test message to each destination.")
@click.option("--dead", is_flag=True, help="List the alerts that could not be delivered.")
@click.option("--retry", is_flag=True, help="With --dead: send them again.")
@click.option("--dismiss", is_flag=True, help="With --dead: discard them.")
@as_table
@report_user_errors
def guard(once: bool, every: int, tested: bool, dead: bool, retry: bool, dismiss: bool, as_json: bool) -> None:
    """Alert when budgets reach their thresholds. Each is alerted once per period: to Slack, PagerDuty, webhooks.

    SPANLEDGER_SLACK_WEBHOOK, SPANLEDGER_PAGERDUTY_KEY and SPANLEDGER_ALERT_WEBHOOK set the destinations. An alert that a
    destination does not accept is tried five times, then kept: --dead lists it, --dead --retry sends it again. Any number
    of guards may run. If no destination is set, alerts are printed and remain undelivered. With SPANLEDGER_REDIS_URL the
    guard also publishes the budgets to Redis, and reconciles its counters with the ledger.

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
        raise click.UsageError("--retry and --dismiss cannot be combined")
    if once + tested + dead > 1:
        raise click.UsageError("--once, --test and --dead cannot be combined")
    if as_json and (not dead or retry or dismiss):
        raise click.UsageError("--json goes with --dead")
    alert_destinations = destinations.destinations_from_settings()
    if (tested or retry) and not alert_destinations:
        raise click.ClickException(
            "no destination is set: SPANLEDGER_SLACK_WEBHOOK, SPANLEDGER_PAGERDUTY_KEY, SPANLEDGER_ALERT_WEBHOOK (docs/budgets.md)"
        )
    if tested:
        notifications = _send_test_messages(alert_destinations)
        _print_notifications(notifications)
        _exit_on_failure(notifications)
    elif dead:
        _dead_letters(alert_destinations, retry=retry, dismiss=dismiss, as_json=as_json)
    elif once:
        _exit_on_failure(_evaluate_once(alert_destinations))
    else:
        _evaluate_forever(alert_destinations, every)


def _dead_letters(destinations: Sequence[Destination], *, retry: bool, dismiss: bool, as_json: bool) -> None:
    """Lists, retries or dismisses undelivered alerts."""
    from spanledger_clickhouse.alerts import delivery_log

    with ledger() as database:
        if dismiss:
            click.echo(f"{delivery_log.dismiss(database)} alerts are discarded")
            return
        if not retry:
            rows = [row[:6] for row in delivery_log.dead_letters(database)]
            show(
                Result(tuple(COLUMNS), tuple(COLUMNS.values()), rows),
                "Alerts that could not be delivered",
                json_output=as_json,
                important=("error",),
            )
            return
        notifications, nowhere = delivery_log.retry(database, destinations)
    if nowhere:
        click.echo(f"{nowhere} alerts are for a kind of destination that is no longer set", err=True)
    _print_notifications(notifications)
    _exit_on_failure(notifications, failed=nowhere > 0)


def _evaluate_forever(destinations: Sequence[Destination], every: int) -> None:
    recipients = ", ".join(destination.display_name for destination in destinations) or "none (alerts are only printed)"
    click.echo(f"evaluating every {every} s; destinations: {recipients}", err=True)
    printed: set[str] = set()
    while True:
        began = time.monotonic()
        try:
            _evaluate_once(destinations, printed)
        except DatabaseError as error:
            click.echo(f"{datetime.now(UTC):%H:%M:%S} {error}", err=True)
        except Exception as error:  # noqa: BLE001 - any error of a driver: the next evaluation may succeed
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} at {place.filename}:{place.lineno}"
            click.echo(f"{datetime.now(UTC):%H:%M:%S} evaluation failed with {what}", err=True)
        time.sleep(max(0.0, every - (time.monotonic() - began)))


def _evaluate_once(destinations: Sequence[Destination], printed: set[str] | None = None) -> list[DeliveryResult]:
    """Evaluates all budgets once and prints the notifications; an alert without a destination is printed only once, per
    `printed`. Raises DatabaseError after alerting, if Redis is unavailable."""
    from spanledger_clickhouse.alerts import evaluate

    publish_error: DatabaseError | None = None
    with ledger() as database:
        try:
            publish(database, all_values=False)
        except DatabaseError as error:  # alerts are sent all the same
            publish_error = error
        notifications = evaluate.evaluate(database, datetime.now(UTC), destinations)
    _print_notifications(
        [
            notification
            for notification in notifications
            if notification.destination or printed is None or not printed.issuperset(notification.alert_ids)
        ]
    )
    if printed is not None:
        printed |= {alert for notification in notifications for alert in notification.alert_ids}
    if publish_error is not None:
        raise publish_error
    return notifications


def _send_test_messages(destinations: Sequence[Destination]) -> list[DeliveryResult]:
    from spanledger_clickhouse.alerts.delivery_log import DeliveryResult
    from spanledger_clickhouse.alerts.messages import Alert, webhook_payload

    now = datetime.now(UTC)
    budget = Budget("test", "month", 10**13)
    forecast = Forecast(12.0, 11.0, 13.0, None, None, None)
    alert = Alert(BudgetStatus(budget, "", window("month", now), Decimal(8), forecast), 0.8, (("summarize", Decimal(5)),), (("ada", Decimal(3)),))  # fmt: skip
    text = "This is a test of spanledger guard: nothing is wrong"
    test_payload: dict[str, Any] = {**webhook_payload(alert), "id": secrets.token_hex(16), "type": "test", "text": text}

    def sent(destination: Destination) -> DeliveryResult:
        return DeliveryResult(text, destination.display_name, destination.deliver(test_payload))

    with ThreadPoolExecutor(len(destinations)) as pool:
        return list(pool.map(sent, destinations))


def _print_notifications(notifications: Sequence[DeliveryResult]) -> None:
    for notification in notifications:
        how = (
            f" [{notification.delivery.error or f'{notification.destination}: delivered'}]"
            if notification.destination
            else ""
        )
        console().print(f"{notification.text}{how}", markup=False)


def _exit_on_failure(notifications: Sequence[DeliveryResult], *, failed: bool = False) -> None:
    if failed or any(notification.delivery.error for notification in notifications):
        raise SystemExit(1)


COMMANDS: Final = (guard,)
