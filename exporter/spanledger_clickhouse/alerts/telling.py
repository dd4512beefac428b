"""Told once, over all guards, and not forgotten by a guard that dies.

Who wants to tell of an alert claims it, in a row of the ledger, and looks again a moment after it was written: of several
claims the least tells. An alert that was claimed and, some minutes later, is neither delivered nor given up at a
destination is told there by whoever sees it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
FORGOTTEN_SECONDS: Final = 180
"""A claim this old whose message went nowhere is that of a guard that died: deliveries take a minute at most."""
COLUMNS: Final = [
    "alert", "state", "destination", "claim", "budget", "value", "window_start", "threshold", "spent_usd", "amount_usd",
    "attempts", "error", "payload",
]  # fmt: skip

KNOWN: Final = "SELECT DISTINCT alert FROM budget_alerts WHERE has({keys:Array(String)}, alert)"
CLAIMS: Final = """
SELECT alert, argMin(claim, (at, claim)) FROM budget_alerts
WHERE has({keys:Array(String)}, alert) AND state = 'claimed' GROUP BY alert
"""
FORGOTTEN: Final = """
SELECT alert, any(payload) FROM budget_alerts
WHERE at > now() - INTERVAL 40 DAY
GROUP BY alert
HAVING min(at) < now() - toIntervalSecond({seconds:UInt32}) AND countIf(destination = {destination:String}) = 0
    AND min(at) > now() - INTERVAL 1 HOUR AND any(payload) != ''
"""
DEAD_LETTERS: Final = """
SELECT alert, destination, budget, value, attempts, error, payload, at FROM budget_alerts
WHERE state != 'claimed'
ORDER BY at DESC LIMIT 1 BY alert, destination
"""


class Told(NamedTuple):
    """What became of one message."""

    text: str
    destination: str
    """'' where none is set."""
    delivery: Delivery


def tell(ledger: Ledger, alerts: Sequence[Alert], destinations: Sequence[Destination]) -> list[Told]:
    """Tell of those alerts of which nobody has told yet, and of what others have left behind.

    Raises:
        DatabaseError: the ledger cannot be asked or written to.
    """
    mine = _claimed(ledger, alerts)
    if not destinations:
        return [Told(headline(alert), "", Delivery(0)) for alert in mine]
    done = _deliver(ledger, [(alert.key, payload(alert)) for alert in mine], destinations)
    for destination in destinations:
        parameters = {"seconds": FORGOTTEN_SECONDS, "destination": destination.name}
        left = [(key, json.loads(said)) for key, said in ledger.query(FORGOTTEN, parameters).rows]
        done += _deliver(ledger, left, [destination])
    return done


def _claimed(ledger: Ledger, alerts: Sequence[Alert]) -> list[Alert]:
    """The alerts that are ours to tell."""
    keys = [alert.key for alert in alerts]
    known = {key for (key,) in ledger.query(KNOWN, {"keys": keys}).rows} if keys else set[str]()
    fresh = [alert for alert in alerts if alert.key not in known]
    if not fresh:
        return []
    claim = uuid.uuid4().hex
    insert(ledger, "budget_alerts", COLUMNS, [_row(alert, CLAIMED, claim) for alert in fresh])
    if not ledger.where.embedded:  # one process alone has the embedded ledger
        time.sleep(SETTLE_SECONDS)
    winners = dict(ledger.query(CLAIMS, {"keys": [alert.key for alert in fresh]}).rows)
    return [alert for alert in fresh if winners.get(alert.key) == claim]


def _row(alert: Alert, state: str, claim: str) -> list[Any]:
    at = alert.standing
    return [
        alert.key, state, "", claim, at.budget.name, at.value, at.window.start.astimezone(UTC).replace(tzinfo=None), alert.threshold,
        at.spent_usd, at.amount_usd, 0, "", json.dumps(payload(alert), ensure_ascii=False),
    ]  # fmt: skip


def _deliver(
    ledger: Ledger, said: Iterable[tuple[str, dict[str, Any]]], destinations: Sequence[Destination]
) -> list[Told]:
    """Send payloads to destinations, side by side, and write down what became of each."""
    jobs = [(key, each, destination) for key, each in said for destination in destinations]
    if not jobs:
        return []
    with ThreadPoolExecutor(min(8, len(jobs))) as pool:
        results = list(pool.map(_sent, jobs))
    rows: list[list[Any]] = []
    done: list[Told] = []
    for (key, each, destination), delivery in zip(jobs, results, strict=True):
        state = DEAD if delivery.error else DELIVERED
        if delivery.error:
            log.error("an alert of budget %r was given up after %d attempts: %s", each["budget"], delivery.attempts, delivery.error)  # fmt: skip
        rows.append([
            key, state, destination.name, "", each["budget"], each["value"], _moment(each["period_start"]), each["threshold"],
            Decimal(each["spent_usd"]), Decimal(each["budget_usd"]), delivery.attempts, delivery.error, json.dumps(each, ensure_ascii=False),
        ])  # fmt: skip
        done.append(Told(str(each["text"]), destination.shown, delivery))
    insert(ledger, "budget_alerts", COLUMNS, rows)
    return done


def _sent(job: tuple[str, dict[str, Any], Destination]) -> Delivery:
    return job[2].deliver(job[1])


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)


def dead(ledger: Ledger) -> list[tuple[Any, ...]]:
    """(at, destination, budget, value, attempts, error, alert, payload) of what was given up and not delivered since."""
    rows = ledger.query(DEAD_LETTERS).rows
    return [(at, where, budget, value, attempts, error, alert, said) for alert, where, budget, value, attempts, error, said, at in rows if error]  # fmt: skip


def retry(ledger: Ledger, destinations: Sequence[Destination]) -> list[Told]:
    """Send again what was given up, to those destinations that are still set."""
    known = {destination.name: destination for destination in destinations}
    done: list[Told] = []
    for _, where, *_, alert, said in dead(ledger):
        if where in known:
            done += _deliver(ledger, [(alert, json.loads(said))], [known[where]])
    return done
