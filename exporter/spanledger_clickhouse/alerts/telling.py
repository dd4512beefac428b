"""Told once, over all guards, and not forgotten by a guard that dies.

Who wants to tell of an alert claims it, in a row of the ledger, and looks again a moment after it was written: of several
claims the least tells. A claim says whom it will tell. Where, a quarter of an hour later, neither a delivery nor a failure
is written down for one of them, another guard claims that one and tells it. What was given up is tried again after two
minutes, four, eight, ... for a day.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from spanledger.guard import log
from spanledger_clickhouse.alerts.destinations import Delivery, Destination
from spanledger_clickhouse.alerts.messages import Alert, headline, payload
from spanledger_clickhouse.budgets import insert
from spanledger_clickhouse.ledger import Ledger

CLAIMED: Final = "claimed"
DELIVERED: Final = "delivered"
DEAD: Final = "dead"
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

KNOWN: Final = "SELECT DISTINCT alert FROM budget_alerts WHERE has({ids:Array(String)}, alert)"
CLAIMS: Final = """
SELECT alert, argMin(claim, (at, claim)) FROM budget_alerts
WHERE has({ids:Array(String)}, alert) AND state = 'claimed' AND destination = {destination:String}
    AND at > now() - toIntervalSecond({seconds:UInt32})
GROUP BY alert
"""
OPEN: Final = """
SELECT alert, argMax(payload, at) FROM budget_alerts
WHERE at > now() - INTERVAL 2 DAY
GROUP BY alert
HAVING max(state = 'claimed' AND has(destinations, {destination:String})) AND min(at) > now() - INTERVAL 1 DAY
    AND countIf(destination = {destination:String} AND state = 'delivered') = 0
    AND maxIf(at, destination IN ('', {destination:String}))
        < now() - toIntervalSecond(if(countIf(destination = {destination:String} AND state = 'dead') = 0, {seconds:UInt32},
            60 * least(720, exp2(countIf(destination = {destination:String} AND state = 'dead')))))
LIMIT 100
"""
DEAD_LETTERS: Final = """
SELECT alert, destination, budget, value, attempts, error, payload, at FROM budget_alerts
WHERE state != 'claimed'
ORDER BY at DESC LIMIT 1 BY alert, destination
"""


UNTRIED: Final = Delivery(0)


class Told(NamedTuple):
    """What became of one message."""

    text: str
    destination: str
    """'' where none is set."""
    delivery: Delivery


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
        destinations: whom.
        detailed: adds to an alert what only those need that are told.

    Raises:
        DatabaseError: the ledger cannot be asked or written to.
    """
    mine = _claimed(ledger, alerts, [destination.name for destination in destinations])
    if not destinations:
        return [Told(headline(alert), "", Delivery(0)) for alert in mine]
    done = _deliver(ledger, [(alert.id, payload(detailed(alert))) for alert in mine], destinations)
    for destination in destinations:
        parameters = {"seconds": FORGOTTEN_SECONDS, "destination": destination.name}
        left = {alert: said for alert, said in ledger.query(OPEN, parameters).rows if said}
        claim = uuid.uuid4().hex
        rows = [_row(alert, json.loads(said), CLAIMED, destination.name, claim) for alert, said in left.items()]
        won = _won(ledger, rows, claim, destination.name)
        done += _deliver(ledger, [(alert, json.loads(left[alert])) for alert in won], [destination])
    return done


def _claimed(ledger: Ledger, alerts: Sequence[Alert], destinations: list[str]) -> list[Alert]:
    """The alerts that are ours to tell."""
    ids = [alert.id for alert in alerts]
    known: set[str] = set()
    for start in range(0, len(ids), IDS):
        known |= {alert for (alert,) in ledger.query(KNOWN, {"ids": ids[start : start + IDS]}).rows}
    fresh = {alert.id: alert for alert in alerts if alert.id not in known}
    if len(fresh) > AT_ONCE:
        log.warning("%d alerts at once: %d of them are told at the next look", len(fresh), len(fresh) - AT_ONCE)
        fresh = dict(list(fresh.items())[:AT_ONCE])
    claim = uuid.uuid4().hex
    rows = [_row(alert.id, payload(alert), CLAIMED, "", claim, destinations=destinations) for alert in fresh.values()]
    return [fresh[alert] for alert in _won(ledger, rows, claim, "")]


def _won(ledger: Ledger, rows: list[list[Any]], claim: str, destination: str) -> list[str]:
    """Write claims, and see which of them hold."""
    if not rows:
        return []
    insert(ledger, "budget_alerts", COLUMNS, rows)
    if not ledger.where.embedded:  # one process alone has the embedded ledger
        time.sleep(SETTLE_SECONDS)
    ids = [row[0] for row in rows]
    parameters = {"ids": ids, "destination": destination, "seconds": max(60, FORGOTTEN_SECONDS)}
    winners = dict(ledger.query(CLAIMS, parameters).rows)
    return [alert for alert in ids if winners.get(alert) == claim]


def _row(
    alert: str, said: dict[str, Any], state: str, destination: str, claim: str = "", delivery: Delivery = UNTRIED,
    destinations: Sequence[str] = (),
) -> list[Any]:  # fmt: skip
    begun = datetime.fromisoformat(said["period_start"]).astimezone(UTC)
    return [
        alert, state, list(destinations), destination, claim, said["budget"], said["value"], begun, said["threshold"],
        Decimal(said["spent_usd"]), Decimal(said["budget_usd"]), delivery.attempts, delivery.error, json.dumps(said, ensure_ascii=False),
    ]  # fmt: skip


def _deliver(
    ledger: Ledger, said: Iterable[tuple[str, dict[str, Any]]], destinations: Sequence[Destination]
) -> list[Told]:
    """Send payloads to destinations, side by side, and write down what became of each as soon as it is known."""
    jobs = [(alert, each, destination) for alert, each in said for destination in destinations]
    if not jobs:
        return []
    done: list[Told] = []
    failures: Counter[str] = Counter()
    rows: list[list[Any]] = []
    written = time.monotonic()
    with ThreadPoolExecutor(min(SENDERS, len(jobs))) as pool:
        running = {
            pool.submit(_sent, each, destination, failures): (alert, each, destination)
            for alert, each, destination in jobs
        }
        for future in as_completed(running):
            alert, each, destination = running[future]
            delivery = future.result()
            rows.append(_row(alert, each, DEAD if delivery.error else DELIVERED, destination.name, delivery=delivery))
            done.append(Told(str(each["text"]), destination.shown, delivery))
            if delivery.error:
                log.error("an alert of budget %r is not delivered after %d attempts: %s", each["budget"], delivery.attempts, delivery.error)  # fmt: skip
            if time.monotonic() - written > SETTLE_SECONDS or len(done) == len(jobs):
                insert(ledger, "budget_alerts", COLUMNS, rows)
                rows, written = [], time.monotonic()
    return done


def _sent(said: dict[str, Any], destination: Destination, failures: Counter[str]) -> Delivery:
    if failures[destination.name] >= MANY_FAILURES:
        return Delivery(0, f"{destination.shown}: not tried, others have just failed")
    delivery = destination.deliver(said)
    if delivery.error:
        failures[destination.name] += 1
    return delivery


def dead(ledger: Ledger) -> list[tuple[Any, ...]]:
    """(at, destination, budget, value, attempts, error, alert, payload) of what was given up and not delivered since."""
    rows = ledger.query(DEAD_LETTERS).rows
    return [(at, where, budget, value, attempts, error, alert, said) for alert, where, budget, value, attempts, error, said, at in rows if error]  # fmt: skip


def retry(ledger: Ledger, destinations: Sequence[Destination]) -> tuple[list[Told], int]:
    """Send again what was given up; (what became of it, letters whose kind of destination is no longer set).

    A letter to an address that is no longer set goes to those of its kind that are.
    """
    done: list[Told] = []
    nowhere = 0
    for _, where, *_, alert, said in dead(ledger):
        found = [each for each in destinations if each.name == where]
        others = found or [each for each in destinations if each.kind == where.partition(" ")[0]]
        nowhere += not others
        sent = _deliver(ledger, [(alert, json.loads(said))], others)
        if not found and sent and not any(each.delivery.error for each in sent):
            insert(ledger, "budget_alerts", COLUMNS, [_row(alert, json.loads(said), DELIVERED, where)])
        done += sent
    return done, nowhere
