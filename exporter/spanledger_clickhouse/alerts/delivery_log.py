"""Told once, over all guards, and not forgotten by a guard that dies.

Who wants to tell of an alert claims it, in a row of the ledger, and looks again a moment after it was written: of several
claims the first tells. A claim says whom it will tell. Where, a quarter of an hour later, neither a delivery nor a failure
is written down for one of them, another guard claims that one and tells it. What was given up is claimed and tried again
after two minutes, four, eight, ... for a day; an outcome ends the claims before it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from spanledger.runtime.guard import log
from spanledger_clickhouse.alerts.destinations import Delivery, Destination
from spanledger_clickhouse.alerts.messages import Alert, headline, payload
from spanledger_clickhouse.budgets.table import insert
from spanledger_clickhouse.database.ledger import Ledger

CLAIMED: Final = "claimed"
DELIVERED: Final = "delivered"
DEAD: Final = "dead"
DISMISSED: Final = "dismissed"
SETTLE_SECONDS: Final = 1.0
"""In which every guard sees a claim that was written before."""
FORGOTTEN_SECONDS: Final = 900
"""A claim this old of which nothing came is that of a guard that died."""
AT_ONCE: Final = 100
"""Alerts of one look; the others are told of at the next."""
SENDERS: Final = 8
MANY_FAILURES: Final = 3
"""After so many at one destination the rest of a look is not tried there."""
IDS: Final = 500
"""Of one query."""
COLUMNS: Final = [
    "alert", "state", "destinations", "destination", "claim", "budget", "value", "window_start", "threshold", "spent_usd",
    "amount_usd", "attempts", "error", "payload",
]  # fmt: skip

KNOWN: Final = "SELECT DISTINCT alert FROM budget_alerts WHERE alert IN {ids:Array(String)}"
CLAIMS: Final = """
SELECT alert, argMinIf(claim, (at, claim), state = 'claimed' AND at > failed) FROM
(
    SELECT alert, state, claim, at, maxIf(at, state = 'dead') OVER (PARTITION BY alert) AS failed FROM budget_alerts
    WHERE alert IN {ids:Array(String)} AND destination = {destination:String}
)
WHERE at > now() - toIntervalSecond({seconds:UInt32})
GROUP BY alert
"""
"""Who may tell: the first claim since the last failure, of those that are not so old that whoever made it has died."""
OPEN: Final = """
SELECT
    alert, argMax(payload, at),
    countIf(state = 'dead' AND destination = {destination:String}) AS failures,
    maxIf(at, state = 'dead' AND destination = {destination:String}) AS failed,
    maxIf(at, state = 'claimed' AND (destination = {destination:String} OR has(destinations, {destination:String}))) AS claimed
FROM budget_alerts
WHERE at > now() - INTERVAL 2 DAY
GROUP BY alert
HAVING claimed > 0 AND min(at) > now() - INTERVAL 1 DAY
    AND countIf(destination = {destination:String} AND state IN ('delivered', 'dismissed')) = 0
    AND (claimed <= failed OR claimed < now() - toIntervalSecond({seconds:UInt32}))
    AND (failures = 0 OR failed < now() - toIntervalSecond(60 * least(720, exp2(failures))))
LIMIT 100
"""
"""What is claimed for a destination, not delivered, and with nobody at it: after a failure, or a death."""
DEAD_LETTERS: Final = """
SELECT alert, whom, any(budget), any(value), sum(attempts), argMaxIf(error, at, state = 'dead') AS said, argMax(payload, at), max(at) AS last
FROM (SELECT *, arrayJoin(if(destination = '', destinations, [destination])) AS whom FROM budget_alerts)
GROUP BY alert, whom
HAVING countIf(state IN ('delivered', 'dismissed')) = 0
    AND (argMax(state, at) = 'dead' OR last < now() - toIntervalSecond({seconds:UInt32}))
ORDER BY last DESC
"""
"""What was given up, and what a guard has claimed and left."""
UNKNOWN: Final = "the guard that had it has ended"
"""The error of what has none written down."""


UNTRIED: Final = Delivery(0)


class Told(NamedTuple):
    """What became of one message."""

    text: str
    destination: str
    """'' where none is set."""
    delivery: Delivery
    alert: str = ""
    """Its id."""


def tell(
    ledger: Ledger,
    alerts: Sequence[Alert],
    destinations: Sequence[Destination],
    detailed: Callable[[Alert], Alert] = lambda alert: alert,
) -> list[Told]:
    """Tell of those alerts of which nobody has told yet, and of what others have left behind.

    Args:
        ledger: remembers what was told.
        alerts: what is to be told.
        destinations: whom; with none nothing is claimed: whoever has one tells of it.
        detailed: adds to an alert what only those need that are told.

    Raises:
        DatabaseError: the ledger cannot be asked or written to.
    """
    fresh = _fresh(ledger, alerts)
    if not destinations:
        return [Told(headline(alert), "", Delivery(0), alert.id) for alert in fresh]
    mine = _claimed(ledger, fresh, [destination.name for destination in destinations])
    outcomes = _deliver(ledger, [(alert.id, payload(detailed(alert))) for alert in mine], destinations)
    for destination in destinations:
        parameters = {"seconds": FORGOTTEN_SECONDS, "destination": destination.name}
        left = {alert: json.loads(payload_json) for alert, payload_json, *_ in ledger.query(OPEN, parameters).rows if payload_json}
        outcomes += _again(ledger, left, destination.name, [destination])
    return outcomes


def _again(
    ledger: Ledger, letters: Mapping[str, dict[str, Any]], name: str, destinations: Sequence[Destination]
) -> list[Told]:
    """Claim letters (alert -> payload) that lie there for the destination of a name, and send them."""
    claim = uuid.uuid4().hex
    rows = [_row(alert, payload, CLAIMED, name, claim) for alert, payload in letters.items()]
    won_alerts = _won(ledger, rows, claim, name)
    return _deliver(ledger, [(alert, letters[alert]) for alert in won_alerts], destinations)


def _fresh(ledger: Ledger, alerts: Sequence[Alert]) -> list[Alert]:
    """Those that nobody has claimed."""
    ids = [alert.id for alert in alerts]
    claimed_ids: set[str] = set()
    for start in range(0, len(ids), IDS):
        claimed_ids |= {alert for (alert,) in ledger.query(KNOWN, {"ids": ids[start : start + IDS]}).rows}
    fresh = {alert.id: alert for alert in alerts if alert.id not in claimed_ids}
    if len(fresh) > AT_ONCE:
        log.warning("%d alerts at once: %d of them are told at the next look", len(fresh), len(fresh) - AT_ONCE)
    return list(fresh.values())[:AT_ONCE]


def _claimed(ledger: Ledger, fresh: Sequence[Alert], destinations: list[str]) -> list[Alert]:
    """The alerts that are ours to tell."""
    claim = uuid.uuid4().hex
    rows = [_row(alert.id, payload(alert), CLAIMED, "", claim, destinations=destinations) for alert in fresh]
    won = set(_won(ledger, rows, claim, ""))
    return [alert for alert in fresh if alert.id in won]


def _won(ledger: Ledger, rows: list[list[Any]], claim: str, destination: str) -> list[str]:
    """Write claims, and see which of them hold."""
    if not rows:
        return []
    insert(ledger, "budget_alerts", COLUMNS, rows)
    if not ledger.target.embedded:  # one process alone has the embedded ledger
        time.sleep(SETTLE_SECONDS)
    ids = [row[0] for row in rows]
    parameters = {"ids": ids, "destination": destination, "seconds": FORGOTTEN_SECONDS}
    winners = dict(ledger.query(CLAIMS, parameters).rows)
    return [alert for alert in ids if winners.get(alert) == claim]


def _row(
    alert: str, payload: dict[str, Any], state: str, destination: str, claim: str = "", delivery: Delivery = UNTRIED,
    destinations: Sequence[str] = (),
) -> list[Any]:  # fmt: skip
    begun = datetime.fromisoformat(payload["period_start"]).astimezone(UTC)
    return [
        alert, state, list(destinations), destination, claim, payload["budget"], payload["value"], begun, payload["threshold"],
        Decimal(payload["spent_usd"]), Decimal(payload["budget_usd"]), delivery.attempts, delivery.error, json.dumps(payload, ensure_ascii=False),
    ]  # fmt: skip


def _deliver(
    ledger: Ledger, payloads: Iterable[tuple[str, dict[str, Any]]], destinations: Sequence[Destination]
) -> list[Told]:
    """Send payloads to destinations, side by side, and write down what became of each as soon as it is known."""
    jobs = [(alert, payload, destination) for alert, payload in payloads for destination in destinations]
    if not jobs:
        return []
    outcomes: list[Told] = []
    failures: Counter[str] = Counter()
    rows: list[list[Any]] = []
    written = time.monotonic()
    with ThreadPoolExecutor(min(SENDERS, len(jobs))) as pool:
        running = {
            pool.submit(_sent, payload, destination, failures): (alert, payload, destination)
            for alert, payload, destination in jobs
        }
        for future in as_completed(running):
            alert, payload, destination = running[future]
            delivery = future.result()
            rows.append(_row(alert, payload, DEAD if delivery.error else DELIVERED, destination.name, delivery=delivery))
            outcomes.append(Told(str(payload["text"]), destination.shown, delivery, alert))
            if delivery.error:
                log.error("an alert of budget %r is not delivered after %d attempts: %s", payload["budget"], delivery.attempts, delivery.error)  # fmt: skip
            if time.monotonic() - written > SETTLE_SECONDS or len(outcomes) == len(jobs):
                insert(ledger, "budget_alerts", COLUMNS, rows)
                rows, written = [], time.monotonic()
    return outcomes


def _sent(payload: dict[str, Any], destination: Destination, failures: Counter[str]) -> Delivery:
    if failures[destination.name] >= MANY_FAILURES:
        return Delivery(0, f"{destination.shown}: not tried, others have just failed")
    delivery = destination.deliver(payload)
    if delivery.error:
        failures[destination.name] += 1
    return delivery


def dead(ledger: Ledger) -> list[tuple[Any, ...]]:
    """(at, destination, budget, value, attempts, error, alert, payload) of what was given up and not delivered since.

    Raises:
        DatabaseError: the ledger does not answer.
    """
    rows = ledger.query(DEAD_LETTERS, {"seconds": FORGOTTEN_SECONDS}).rows
    return [(updated_at, destination, budget, value, attempts, error or UNKNOWN, alert, payload_json) for alert, destination, budget, value, attempts, error, payload_json, updated_at in rows]  # fmt: skip


def retry(ledger: Ledger, destinations: Sequence[Destination]) -> tuple[list[Told], int]:
    """Send again what was given up; (what became of it, letters whose kind of destination is no longer set).

    A letter to an address that is no longer set goes to those of its kind that are. Raises DatabaseError.
    """
    letters: dict[str, dict[str, dict[str, Any]]] = {}
    for _, name, *_, alert, payload_json in dead(ledger):
        letters.setdefault(name, {})[alert] = json.loads(payload_json)
    outcomes: list[Told] = []
    undeliverable = 0
    for name, payloads in letters.items():
        same_address = [destination for destination in destinations if destination.name == name]
        recipients = same_address or [destination for destination in destinations if destination.kind == name.partition(" ")[0]]
        if not recipients:
            undeliverable += len(payloads)
            continue
        sent = _again(ledger, payloads, name, recipients)
        if not same_address and sent:  # they are letters of the other addresses now
            moved = [_row(alert, payloads[alert], DISMISSED, name) for alert in {outcome.alert for outcome in sent}]
            insert(ledger, "budget_alerts", COLUMNS, moved)
        outcomes += sent
    return outcomes, undeliverable


def dismiss(ledger: Ledger) -> int:
    """Have no more of what was given up; how much it was. Raises DatabaseError."""
    letters = dead(ledger)
    rows = [_row(alert, json.loads(payload_json), DISMISSED, destination) for _, destination, *_, alert, payload_json in letters]
    if rows:
        insert(ledger, "budget_alerts", COLUMNS, rows)
    return len(rows)
