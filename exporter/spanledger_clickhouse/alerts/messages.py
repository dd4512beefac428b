"""What is said of a budget: one payload, and the forms that Slack and PagerDuty want of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from spanledger_clickhouse.budgets.status import Standing
from spanledger_clickhouse.report.slack import escaped

SEVERITIES: Final = ((1.0, "critical"), (0.95, "error"), (0.0, "warning"))
"""Threshold -> severity of a page (https://developer.pagerduty.com/docs/events-api-v2-overview)."""
VERSION: Final = 1
"""Of the payload: a field may be added, none is taken away or changes its meaning within a version."""


@dataclass(frozen=True)
class Alert:
    """A budget that has come to a threshold."""

    standing: Standing
    threshold: float
    features: tuple[tuple[str, Decimal], ...] = ()
    """The dearest, with what they have spent of it; "" of calls without one."""
    users: tuple[tuple[str, Decimal], ...] = ()

    @property
    def key(self) -> str:
        """The same alert has the same key, in whichever process; a budget of another amount is another matter."""
        status = self.standing
        account = status.budget.account(status.value, int(status.window.start.timestamp()))
        return f"{account}\x1f{status.budget.amount_picousd}\x1f{self.threshold:g}"

    @property
    def id(self) -> str:
        return hashlib.sha256(self.key.encode()).hexdigest()[:32]


def payload(alert: Alert) -> dict[str, Any]:
    """What a webhook is sent; money as decimal strings in USD."""
    status, budget = alert.standing, alert.standing.budget
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
        "spent_usd": _plain(status.spent_usd),
        "budget_usd": _plain(status.amount_usd),
        "utilisation": round(status.utilisation, 4),
        "forecast_usd": None if status.projected_usd is None else _plain(status.projected_usd),
        "action": budget.action,
        "top_features": [{"feature": name or None, "cost_usd": _plain(cost)} for name, cost in alert.features],
        "top_users": [{"user": name or None, "cost_usd": _plain(cost)} for name, cost in alert.users],
    }


def headline(alert: Alert) -> str:
    status = alert.standing
    share = int(status.spent_usd * 100 / status.amount_usd)  # never more than it is
    text = f"Budget {_shown(status.whose)}: {share}% of {_usd(status.amount_usd)} for the {status.budget.window} is spent ({_usd(status.spent_usd)})"
    if status.projected_usd is not None and status.projected_usd > status.spent_usd:
        text += f"; at this pace {_usd(status.projected_usd)} by its end"
    return text


def slack(payload: dict[str, Any]) -> dict[str, Any]:
    """A message of an incoming webhook (https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks)."""
    icon = ":rotating_light:" if payload["type"] == "exceeded" else ":warning:"
    parts = [f"{icon} *{escaped(payload['text'])}*"]
    for title, key, name in (("Features", "top_features", "feature"), ("Users", "top_users", "user")):
        if payload[key]:
            shown = ", ".join(
                f"{escaped(_shown(entry[name] or 'nobody said'))} {_usd(Decimal(entry['cost_usd']))}"
                for entry in payload[key]
            )
            parts.append(f"{title}: {shown}")
    text = "\n".join(parts)
    return {
        "text": escaped(payload["text"]),
        "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": text[:2900], "verbatim": True}}],
    }


def pagerduty(payload: dict[str, Any], routing_key: str) -> dict[str, Any]:
    """An event of PagerDuty's Events API v2. A threshold is an incident of its own: who has acknowledged 80 % is paged at 100 %."""
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


def _shown(name: str) -> str:
    """A name on one line, of a length that leaves room for others."""
    printable = "".join(character if character.isprintable() else " " for character in name)
    return printable if len(printable) <= 100 else f"{printable[:99]}…"


def _plain(amount: Decimal) -> str:
    return format(amount.quantize(Decimal("0.000001")), "f")


def _usd(amount: Decimal) -> str:
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:,.4f}"
