"""Formats budget alerts: the webhook payload, and its Slack and PagerDuty forms."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from spanledger_clickhouse.budgets.status import BudgetStatus
from spanledger_clickhouse.money import usd
from spanledger_clickhouse.report.slack import escape_mrkdwn

SEVERITIES: Final = ((1.0, "critical"), (0.95, "error"), (0.0, "warning"))
"""Threshold -> severity of a page (https://developer.pagerduty.com/docs/events-api-v2-overview)."""
VERSION: Final = 1
"""Payload version: within a version fields may be added, but not removed or changed in meaning."""


@dataclass(frozen=True)
class Alert:
    """A budget that has crossed a threshold."""

    status: BudgetStatus
    threshold: float
    features: tuple[tuple[str, Decimal], ...] = ()
    """Top features with their spend; "" for calls without a feature."""
    users: tuple[tuple[str, Decimal], ...] = ()

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
        "text": headline(alert),
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


def headline(alert: Alert) -> str:
    status = alert.status
    share = int(status.spent_usd * 100 / status.amount_usd)  # rounded down
    text = f"Budget {_printable(status.label)}: {share}% of {usd(status.amount_usd)} for the {status.budget.window} is spent ({usd(status.spent_usd)})"
    if status.projected_usd is not None and status.projected_usd > status.spent_usd:
        text += f"; at the current burn rate {usd(status.projected_usd)} by the end of the period"
    return text


def slack(payload: dict[str, Any]) -> dict[str, Any]:
    """A message of an incoming webhook (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks)."""
    icon = ":rotating_light:" if payload["type"] == "exceeded" else ":warning:"
    parts = [f"{icon} *{escape_mrkdwn(payload['text'])}*"]
    for title, key, name in (("Features", "top_features", "feature"), ("Users", "top_users", "user")):
        if payload[key]:
            shown = ", ".join(
                f"{escape_mrkdwn(_printable(entry[name] or 'unattributed'))} {usd(Decimal(entry['cost_usd']))}"
                for entry in payload[key]
            )
            parts.append(f"{title}: {shown}")
    text = "\n".join(parts)
    return {
        "text": escape_mrkdwn(payload["text"]),
        "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": text[:2900], "verbatim": True}}],
    }


def pagerduty(payload: dict[str, Any], routing_key: str) -> dict[str, Any]:
    """An event of PagerDuty's Events API v2. Each threshold is its own incident: 100 % pages after an acknowledged 80 %."""
    return {
        "routing_key": routing_key,
        "event_action": "trigger",
        "dedup_key": f"spanledger-{payload['id']}",
        "payload": {
            "summary": str(payload["text"])[:1024],
            "source": "spanledger",
            "severity": next(name for least, name in SEVERITIES if payload["threshold"] >= least),
            "component": payload["budget"],
            "class": f"budget {payload['type']}",
            "custom_details": payload,
        },
    }


def _printable(name: str) -> str:
    """A name as one line of printable characters, truncated to 100."""
    printable = "".join(character if character.isprintable() else " " for character in name)
    return printable if len(printable) <= 100 else f"{printable[:99]}…"


def _decimal_string(amount: Decimal) -> str:
    return format(amount.quantize(Decimal("0.000001")), "f")
