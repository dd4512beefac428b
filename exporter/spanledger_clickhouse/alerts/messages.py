"""Formats budget alerts: the webhook payload, and its Slack and PagerDuty forms."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from spanledger.runtime import settings
from spanledger_clickhouse.budgets.status import BudgetStatus
from spanledger_clickhouse.money import usd
from spanledger_clickhouse.printable import one_line
from spanledger_clickhouse.report.slack import escape_mrkdwn

SEVERITIES: Final = ((1.0, "critical"), (0.95, "error"), (0.0, "warning"))
"""Threshold -> severity of a page (https://developer.pagerduty.com/docs/events-api-v2-overview)."""
ICONS: Final = {"exceeded": ":rotating_light:", "resolved": ":white_check_mark:", "refused": ":no_entry:"}
VERSION: Final = 1
"""Payload version: within a version fields may be added, but not removed or changed in meaning."""


GROUPED_FROM: Final = {"slack": 6, "pagerduty": 6, "webhook": 25}
"""Kind of destination -> so many users (tenants, ...) of one budget and threshold are one message, with the first five. A program
behind a webhook may act on each of a few."""
SHOWN: Final = 5


@dataclass(frozen=True)
class Alert:
    """A budget that has crossed a threshold."""

    status: BudgetStatus
    threshold: float
    features: tuple[tuple[str, Decimal], ...] = ()
    """Top features with their spend; "" for calls without a feature."""
    users: tuple[tuple[str, Decimal], ...] = ()
    changed: tuple[str, Decimal, Decimal] | None = None
    """The feature that grew most: (its name, its spend, its spend at this point of the period before)."""

    @property
    def key(self) -> str:
        """Deduplication key of the alert, the same in every process; a changed budget amount gives a new key."""
        status = self.status
        account = status.budget.counter_key(status.value, int(status.window.start.timestamp()))
        return f"{account}\x1f{status.budget.amount_picousd}\x1f{self.threshold:g}"

    @property
    def id(self) -> str:
        return hashlib.sha256(self.key.encode()).hexdigest()[:32]


def webhook_payload(alert: Alert) -> dict[str, Any]:
    """Payload of a webhook; amounts are decimal strings in USD."""
    status, budget = alert.status, alert.status.budget
    return {
        "version": VERSION,
        "id": alert.id,
        "type": "exceeded" if alert.threshold >= 1 else "warning",
        "text": "\n".join([headline(alert), *_advice(alert)]),
        "budget": budget.name,
        "scope": dict(budget.scope),
        "per": budget.per,
        "value": status.value,
        "period": budget.window,
        "period_start": status.window.start.isoformat(),
        "period_end": status.window.end.isoformat(),
        "threshold": alert.threshold,
        "spent_usd": _decimal_string(status.spent_usd),
        "budget_usd": _decimal_string(status.amount_usd),
        "utilisation": round(status.utilisation, 4),
        "forecast_usd": None if status.projected_usd is None else _decimal_string(status.projected_usd),
        "action": budget.action,
        "top_features": [{"feature": name or None, "cost_usd": _decimal_string(cost)} for name, cost in alert.features],
        "top_users": [{"user": name or None, "cost_usd": _decimal_string(cost)} for name, cost in alert.users],
    }


def grouped_payload(payloads: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One message for many values of a budget.

    Args:
        payloads: alert id -> its payload, of one budget, period and threshold.
    """
    ordered = sorted(payloads.values(), key=lambda payload: -Decimal(payload["spent_usd"]))
    first = ordered[0]
    top = ", ".join(f"{one_line(p['value'])} {usd(Decimal(p['spent_usd']))}" for p in ordered[:SHOWN])
    share, kind = f"{first['threshold'] * 100:g}%", f"{first['per']}s"
    head = (
        f"Budget {one_line(first['budget'])}: {len(ordered)} {kind} have reached {share} of {usd(Decimal(first['budget_usd']))} "
        f"for the {first['period']}: {top} and {len(ordered) - SHOWN} more"
    )
    lines = [head, *_look(f"spanledger budget list --all, spanledger stop {first['per']}=...")]
    members = {alert: payload["value"] for alert, payload in payloads.items()}
    identity = hashlib.sha256("\x1f".join(sorted(payloads)).encode()).hexdigest()[:32]
    return {
        **first, "id": identity, "text": "\n".join(lines), "value": "", "top_features": [], "members": members,
        "top_users": [{"user": p["value"], "cost_usd": p["spent_usd"]} for p in ordered[:SHOWN]],
    }  # fmt: skip


@dataclass(frozen=True)
class Refusals:
    """Calls that were refused within an hour: of those the budget itself never reaches its limit."""

    reason: str
    """What refused them, in the words of one of the calls."""
    count: int
    callers: int
    top: tuple[tuple[str, int], ...]
    begun: datetime
    pattern: str = ""
    """The reason without its numbers: what makes two refusals the same alert."""

    @property
    def id(self) -> str:
        return hashlib.sha256(f"refused\x1f{self.pattern}\x1f{self.begun.isoformat()}".encode()).hexdigest()[:32]


def refusal_payload(refusals: Refusals) -> dict[str, Any]:
    """Payload of refused calls: as of an alert, without amounts."""
    top = ", ".join(f"{one_line(name or 'unattributed')} {count:,}" for name, count in refusals.top)
    calls = f"{refusals.count:,} call{'s were' if refusals.count != 1 else ' was'} refused"
    callers = f"{refusals.callers:,} caller{'s' * (refusals.callers != 1)} ({top})"
    head = f"{calls} in the last hour, of {callers}: {one_line(refusals.reason)}"
    lines = [head, *_look("spanledger budget list, spanledger stop")]
    return {
        "version": VERSION, "id": refusals.id, "type": "refused", "text": "\n".join(lines), "budget": refusals.reason[:200], "scope": {},
        "per": "", "value": "", "period": "hour", "period_start": refusals.begun.isoformat(),
        "period_end": (refusals.begun + timedelta(hours=1)).isoformat(), "threshold": 0.0, "spent_usd": "0.000000",
        "budget_usd": "0.000000", "utilisation": 0.0, "forecast_usd": None, "action": "block", "refused_calls": refusals.count,
        "top_features": [], "top_users": [],
    }  # fmt: skip


def resolved_payload(payload: dict[str, Any]) -> dict[str, Any]:
    """The payload of an incident that is over: its period has ended, or its budget was raised or removed."""
    first = str(payload["text"]).partition("\n")[0]
    return {**payload, "type": "resolved", "text": f"Resolved: {first}"}


def _advice(alert: Alert) -> list[str]:
    """What has changed, how to stop it, and where to look."""
    status, budget = alert.status, alert.status.budget
    scope = {**budget.scope, budget.per: status.value} if budget.per else dict(budget.scope)
    lines: list[str] = []
    if alert.changed is not None:
        name, cost, before = alert.changed
        lines.append(
            f"Changed most: {one_line(name or 'unattributed')} {usd(cost)}, {usd(before)} at this point of the {budget.window} before"
        )
    if not scope and alert.features and alert.features[0][0]:
        scope = {"feature": alert.features[0][0]}
    stopped = next(((d, scope[d]) for d in ("user", "feature", "tenant", "tier") if d in scope), None)
    command = f"spanledger stop {shlex.quote('='.join(stopped))}" if stopped else "spanledger top"
    return lines + _look(command)


def _look(command: str) -> list[str]:
    """The command that stops or shows it, and the dashboard, if one is configured."""
    url = settings.setting("dashboard_url")
    return [f"{'Stop it' if ' stop ' in command else 'See'}: {command}", *([f"Dashboard: {url}"] if url else [])]


def headline(alert: Alert) -> str:
    status = alert.status
    share = int(status.spent_usd * 100 / status.amount_usd)  # rounded down
    text = f"Budget {one_line(status.label)}: {share}% of {usd(status.amount_usd)} for the {status.budget.window} is spent ({usd(status.spent_usd)})"
    if status.projected_usd is not None and status.projected_usd > status.spent_usd:
        text += f"; at the current burn rate {usd(status.projected_usd)} by the end of the period"
    return text


def slack(payload: dict[str, Any]) -> dict[str, Any]:
    """A message of an incoming webhook (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks)."""
    icon = ICONS.get(payload["type"], ":warning:")
    first, *others = str(payload["text"]).split("\n")
    parts = [f"{icon} *{escape_mrkdwn(first)}*"]
    for title, key, name in (("Features", "top_features", "feature"), ("Users", "top_users", "user")):
        if payload[key]:
            shown = ", ".join(
                f"{escape_mrkdwn(one_line(entry[name] or 'unattributed'))} {usd(Decimal(entry['cost_usd']))}"
                for entry in payload[key]
            )
            parts.append(f"{title}: {shown}")
    text = "\n".join(parts)
    blocks: list[dict[str, Any]] = [
        {"type": "section", "text": {"type": "mrkdwn", "text": text[:2900], "verbatim": True}}
    ]
    if others:
        advice = escape_mrkdwn("\n".join(others))[:2900]
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": advice, "verbatim": True}]})
    return {"text": escape_mrkdwn(first), "blocks": blocks}


def pagerduty(payload: dict[str, Any], routing_key: str) -> dict[str, Any]:
    """An event of PagerDuty's Events API v2. Each threshold is its own incident: 100 % pages after an acknowledged 80 %."""
    if payload["type"] == "resolved":
        return {"routing_key": routing_key, "event_action": "resolve", "dedup_key": f"spanledger-{payload['id']}"}
    return {
        "routing_key": routing_key,
        "event_action": "trigger",
        "dedup_key": f"spanledger-{payload['id']}",
        "payload": {
            "summary": str(payload["text"]).partition("\n")[0][:1024],
            "source": "spanledger",
            "severity": next(name for least, name in SEVERITIES if payload["threshold"] >= least),
            "component": payload["budget"],
            "class": f"budget {payload['type']}",
            "custom_details": payload,
        },
    }


def _decimal_string(amount: Decimal) -> str:
    return format(amount.quantize(Decimal("0.000001")), "f")
