"""Delivers each alert exactly once across guard replicas: claims, retries and dead letters.

To send an alert, a guard writes a claim row to the ledger and reads the claims back a moment later: the first claim
wins. A claim lists its destinations. If neither a delivery nor a failure is recorded for a destination within 15
minutes, another guard claims that destination and sends the alert. Failed deliveries are claimed and retried after
2, 4, 8, ... minutes for one day; an outcome invalidates all earlier claims.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from spanledger.runtime.guard import log
from spanledger_clickhouse.alerts.destinations import Delivery, Destination
from spanledger_clickhouse.alerts.messages import (
    GROUPED_FROM,
    Alert,
    Refusals,
    grouped_payload,
    headline,
    refusal_payload,
    resolved_payload,
    webhook_payload,
)
from spanledger_clickhouse.budgets.table import insert
from spanledger_clickhouse.database.ledger import Ledger
from spanledger_clickhouse.database.statements import statement

CLAIMED: Final = "claimed"
DELIVERED: Final = "delivered"
DEAD: Final = "dead"
DISMISSED: Final = "dismissed"
RESOLVED: Final = "resolved"
RESOLVING: Final = ("pagerduty", "webhook")
"""Kinds of destinations that keep an incident open until it is resolved."""
SETTLE_SECONDS: Final = 1.0
"""Time within which every guard sees a claim that was already written."""
CLAIM_EXPIRY_SECONDS: Final = 900
"""A claim of this age without an outcome belongs to a guard that crashed."""
MAX_ALERTS_PER_EVALUATION: Final = 1000
"""Alerts per evaluation; the others are sent by the next one."""
SENDERS: Final = 8
MAX_FAILURES: Final = 3
"""After this many failures at one destination, the remaining alerts of an evaluation are not sent there."""
IDS_PER_QUERY: Final = 500
"""Alert ids per query."""
ALERT_COLUMNS: Final = [
    "alert", "state", "destinations", "destination", "claim", "budget", "value", "window_start", "threshold", "spent_usd",
    "amount_usd", "attempts", "error", "payload",
]  # fmt: skip

CLAIMED_ALERTS: Final = "SELECT alert FROM budget_alerts WHERE alert IN {ids:Array(String)} GROUP BY alert HAVING max(at) > maxIf(at, state = 'resolved')"
"""Alerts that were claimed, and not resolved since."""
UNKNOWN_ERROR: Final = "the guard that claimed it stopped before sending"
"""The error shown for an alert that has none recorded."""


NOT_ATTEMPTED: Final = Delivery(0)


class DeliveryResult(NamedTuple):
    """Outcome of one delivery."""

    text: str
    destination: str
    """'' if no destination is configured."""
    delivery: Delivery
    alert_ids: tuple[str, ...] = ()
    """The alert's id."""


def deliver_once(
    ledger: Ledger,
    alerts: Sequence[Alert | Refusals],
    destinations: Sequence[Destination],
    add_details: Callable[[Alert], Alert] = lambda alert: alert,
) -> list[DeliveryResult]:
    """Send the alerts that no guard has claimed yet, and redeliver those that failed or whose guard crashed.

    Args:
        ledger: records claims and deliveries.
        alerts: the alerts to send.
        destinations: where to send them; without any, nothing is claimed, so a guard with a destination can send them.
        add_details: adds to an alert what only its recipients need.

    Raises:
        DatabaseError: the ledger cannot be queried or written to.
    """
    fresh = _unclaimed(ledger, alerts)
    if not destinations:
        return [DeliveryResult(_headline(alert), "", Delivery(0), (alert.id,)) for alert in fresh]
    mine = _claim_alerts(ledger, fresh, [destination.name for destination in destinations])
    detailed = [(alert, _payload(add_details(alert) if isinstance(alert, Alert) else alert)) for alert in mine]
    outcomes: list[DeliveryResult] = []
    for fewest in dict.fromkeys(GROUPED_FROM[destination.kind] for destination in destinations):
        alike = [destination for destination in destinations if GROUPED_FROM[destination.kind] == fewest]
        outcomes += _deliver(ledger, _grouped(detailed, fewest), alike)
    for destination in destinations:
        parameters = {"seconds": CLAIM_EXPIRY_SECONDS, "destination": destination.name}
        left = {
            alert: json.loads(payload_json)
            for alert, payload_json, *_ in ledger.query(statement("alerts/undelivered"), parameters).rows
            if payload_json
        }
        outcomes += _redeliver(ledger, left, destination.name, [destination])
    return outcomes


def _headline(alert: Alert | Refusals) -> str:
    return headline(alert) if isinstance(alert, Alert) else str(refusal_payload(alert)["text"]).partition("\n")[0]


def _payload(alert: Alert | Refusals) -> dict[str, Any]:
    return webhook_payload(alert) if isinstance(alert, Alert) else refusal_payload(alert)


def _grouped(
    alerts: Sequence[tuple[Alert | Refusals, dict[str, Any]]], fewest: int
) -> list[tuple[str, dict[str, Any]]]:
    """(alert id, the payload that is sent of it): at least so many values of one budget and threshold share one."""
    groups: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for alert, payload in alerts:
        key: tuple[Any, ...] = (alert.id,)
        if isinstance(alert, Alert) and alert.status.budget.per:
            key = (alert.status.budget.name, alert.status.window.start, alert.threshold)
        groups.setdefault(key, {})[alert.id] = payload
    payloads: list[tuple[str, dict[str, Any]]] = []
    for group in groups.values():
        shared = grouped_payload(group) if len(group) >= fewest else None
        payloads += [(alert, shared or payload) for alert, payload in group.items()]
    return payloads


def resolve(ledger: Ledger, current: Collection[str], destinations: Sequence[Destination]) -> list[DeliveryResult]:
    """Resolve the incidents of alerts that do not hold any more.

    Args:
        ledger: records what was resolved.
        current: ids of all alerts that hold now.
        destinations: those that keep incidents open are notified.

    Raises:
        DatabaseError: the ledger cannot be queried or written to.
    """
    outcomes: list[DeliveryResult] = []
    for destination in destinations:
        if destination.kind not in RESOLVING:
            continue
        rows = ledger.query(statement("alerts/open_incidents"), {"destination": destination.name}).rows
        payloads = {alert: json.loads(text) for alert, text in rows if text}
        holding = {
            payload["id"] for alert, payload in payloads.items() if alert in current
        }  # a group is over with its last member
        over = [(alert, resolved_payload(p)) for alert, p in payloads.items() if p["id"] not in holding]
        outcomes += _deliver(ledger, over, [destination], RESOLVED)
    return outcomes


def _redeliver(
    ledger: Ledger, letters: Mapping[str, dict[str, Any]], name: str, destinations: Sequence[Destination]
) -> list[DeliveryResult]:
    """Claim dead letters (alert -> payload) of the named destination, and send them."""
    claim = uuid.uuid4().hex
    rows = [_row(alert, payload, CLAIMED, name, claim) for alert, payload in letters.items()]
    won_alerts = _claims_won(ledger, rows, claim, name)
    return _deliver(ledger, [(alert, letters[alert]) for alert in won_alerts], destinations)


def _unclaimed(ledger: Ledger, alerts: Sequence[Alert | Refusals]) -> list[Alert | Refusals]:
    """The alerts that no guard has claimed."""
    ids = [alert.id for alert in alerts]
    claimed_ids: set[str] = set()
    for start in range(0, len(ids), IDS_PER_QUERY):
        claimed_ids |= {
            alert for (alert,) in ledger.query(CLAIMED_ALERTS, {"ids": ids[start : start + IDS_PER_QUERY]}).rows
        }
    fresh = {alert.id: alert for alert in alerts if alert.id not in claimed_ids}
    if len(fresh) > MAX_ALERTS_PER_EVALUATION:
        log.warning(
            "%d alerts at once: %d of them wait for the next evaluation",
            len(fresh),
            len(fresh) - MAX_ALERTS_PER_EVALUATION,
        )
    return list(fresh.values())[:MAX_ALERTS_PER_EVALUATION]


def _claim_alerts(ledger: Ledger, fresh: Sequence[Alert | Refusals], destinations: list[str]) -> list[Alert | Refusals]:
    """Claim alerts; returns those whose claim this process won."""
    claim = uuid.uuid4().hex
    rows = [_row(alert.id, _payload(alert), CLAIMED, "", claim, destinations=destinations) for alert in fresh]
    won = set(_claims_won(ledger, rows, claim, ""))
    return [alert for alert in fresh if alert.id in won]


def _claims_won(ledger: Ledger, rows: list[list[Any]], claim: str, destination: str) -> list[str]:
    """Write claims; returns the alerts whose claim won."""
    if not rows:
        return []
    insert(ledger, "budget_alerts", ALERT_COLUMNS, rows)
    if not ledger.target.embedded:  # only one process at a time can open the embedded ledger
        time.sleep(SETTLE_SECONDS)
    ids = [row[0] for row in rows]
    parameters = {"ids": ids, "destination": destination, "seconds": CLAIM_EXPIRY_SECONDS}
    winners = dict(ledger.query(statement("alerts/winning_claims"), parameters).rows)
    return [alert for alert in ids if winners.get(alert) == claim]


def _row(
    alert: str, payload: dict[str, Any], state: str, destination: str, claim: str = "", delivery: Delivery = NOT_ATTEMPTED,
    destinations: Sequence[str] = (),
) -> list[Any]:  # fmt: skip
    begun = datetime.fromisoformat(payload["period_start"]).astimezone(UTC)
    return [
        alert, state, list(destinations), destination, claim, payload["budget"], payload.get("members", {}).get(alert, payload["value"]), begun, payload["threshold"],
        Decimal(payload["spent_usd"]), Decimal(payload["budget_usd"]), delivery.attempts, delivery.error, json.dumps(payload, ensure_ascii=False),
    ]  # fmt: skip


def _deliver(
    ledger: Ledger,
    payloads: Iterable[tuple[str, dict[str, Any]]],
    destinations: Sequence[Destination],
    accepted_state: str = DELIVERED,
) -> list[DeliveryResult]:
    """Send payloads to destinations in parallel, each once, and record the outcome of each of its alerts as soon as it is known.

    `accepted_state`: of what was accepted.
    """
    members: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for alert, payload in payloads:
        members.setdefault(str(payload["id"]), ([], payload))[0].append(alert)
    jobs = [(alerts, payload, destination) for alerts, payload in members.values() for destination in destinations]
    if not jobs:
        return []
    outcomes: list[DeliveryResult] = []
    failures: Counter[str] = Counter()
    rows: list[list[Any]] = []
    written = time.monotonic()
    with ThreadPoolExecutor(min(SENDERS, len(jobs))) as pool:
        running = {
            pool.submit(_send, payload, destination, failures): (alerts, payload, destination)
            for alerts, payload, destination in jobs
        }
        for future in as_completed(running):
            alerts, payload, destination = running[future]
            delivery = future.result()
            failed = DEAD if accepted_state == DELIVERED else ""
            if not delivery.error or failed:
                rows += [
                    _row(
                        alert,
                        payload,
                        failed if delivery.error else accepted_state,
                        destination.name,
                        delivery=delivery,
                    )
                    for alert in alerts
                ]
            text = str(payload["text"]).partition("\n")[0]
            outcomes.append(DeliveryResult(text, destination.display_name, delivery, tuple(alerts)))
            if delivery.error:
                log.error("an alert of budget %r was not delivered after %d attempts: %s", payload["budget"], delivery.attempts, delivery.error)  # fmt: skip
            if time.monotonic() - written > SETTLE_SECONDS or len(outcomes) == len(jobs):
                insert(ledger, "budget_alerts", ALERT_COLUMNS, rows)
                rows, written = [], time.monotonic()
    return outcomes


def _send(payload: dict[str, Any], destination: Destination, failures: Counter[str]) -> Delivery:
    if failures[destination.name] >= MAX_FAILURES:
        return Delivery(0, f"{destination.display_name}: skipped after repeated failures")
    delivery = destination.deliver(payload)
    if delivery.error:
        failures[destination.name] += 1
    return delivery


def dead_letters(ledger: Ledger) -> list[tuple[Any, ...]]:
    """Undelivered alerts: (updated_at, destination, budget, value, attempts, error, alert, payload).

    Raises:
        DatabaseError: the ledger does not answer.
    """
    rows = ledger.query(statement("alerts/dead_letters"), {"seconds": CLAIM_EXPIRY_SECONDS}).rows
    return [(updated_at, destination, budget, value, attempts, error or UNKNOWN_ERROR, alert, payload_json) for alert, destination, budget, value, attempts, error, payload_json, updated_at in rows]  # fmt: skip


def retry(ledger: Ledger, destinations: Sequence[Destination]) -> tuple[list[DeliveryResult], int]:
    """Resend undelivered alerts; returns (outcomes, number of alerts without a configured destination of their kind).

    An alert for an address that is no longer configured goes to the addresses of the same kind. Raises DatabaseError.
    """
    letters: dict[str, dict[str, dict[str, Any]]] = {}
    for _, name, *_, alert, payload_json in dead_letters(ledger):
        letters.setdefault(name, {})[alert] = json.loads(payload_json)
    outcomes: list[DeliveryResult] = []
    undeliverable = 0
    for name, payloads in letters.items():
        same_address = [destination for destination in destinations if destination.name == name]
        recipients = same_address or [
            destination for destination in destinations if destination.kind == name.partition(" ")[0]
        ]
        if not recipients:
            undeliverable += len(payloads)
            continue
        sent = _redeliver(ledger, payloads, name, recipients)
        if not same_address and sent:  # the other addresses have taken them over
            taken_over = {alert for outcome in sent for alert in outcome.alert_ids}
            moved = [_row(alert, payloads[alert], DISMISSED, name) for alert in taken_over]
            insert(ledger, "budget_alerts", ALERT_COLUMNS, moved)
        outcomes += sent
    return outcomes, undeliverable


def dismiss(ledger: Ledger) -> int:
    """Discard undelivered alerts; returns how many. Raises DatabaseError."""
    letters = dead_letters(ledger)
    rows = [
        _row(alert, json.loads(payload_json), DISMISSED, destination)
        for _, destination, *_, alert, payload_json in letters
    ]
    if rows:
        insert(ledger, "budget_alerts", ALERT_COLUMNS, rows)
    return len(rows)
