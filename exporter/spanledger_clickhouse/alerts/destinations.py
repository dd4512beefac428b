"""Sends alerts to Slack, PagerDuty and webhooks: bounded retries, then an error.

An address may contain a secret: it is displayed as kind and host, and stored in the ledger as a hash.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from spanledger.runtime import settings
from spanledger.runtime.version import VERSION
from spanledger_clickhouse import http_client
from spanledger_clickhouse.alerts import messages
from spanledger_clickhouse.database.connection import DatabaseError

logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # they log whole addresses
logging.getLogger("urllib3.util.retry").setLevel(logging.ERROR)

ATTEMPTS: Final = 5
TIMEOUT_SECONDS: Final = 5.0
PAGERDUTY_URL: Final = "https://events.pagerduty.com/v2/enqueue"


@dataclass(frozen=True)
class Delivery:
    """Outcome of sending one message."""

    attempts: int
    """Requests made; without a response, the maximum that may have been made."""
    error: str = ""
    """'' if the message was accepted."""


@dataclass(frozen=True)
class Destination:
    """One address that receives alerts."""

    kind: str
    """slack | pagerduty | webhook."""
    url: str = field(repr=False)
    secret: str = field(default="", repr=False)
    """PagerDuty's routing key, or the signing key of a webhook, if any."""

    @property
    def name(self) -> str:
        """Identifier of the destination in the ledger."""
        digest = hashlib.sha256(f"{self.url}\x1f{self.secret if self.kind == 'pagerduty' else ''}".encode()).hexdigest()
        return f"{self.kind} {digest[:8]}"

    @property
    def display_name(self) -> str:
        return f"{self.kind} at {urlsplit(self.url).hostname}"

    def message(self, payload: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        """Body and headers of the request that carries the payload."""
        document = payload
        if self.kind == "slack":
            document = messages.slack(payload)
        elif self.kind == "pagerduty":
            document = messages.pagerduty(payload, self.secret)
        body = json.dumps(document, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", "User-Agent": f"spanledger/{VERSION}"}
        if self.kind == "webhook":
            headers["Idempotency-Key"] = str(payload["id"])
            if self.secret:
                headers["X-Spanledger-Signature"] = f"sha256={hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()}"  # fmt: skip
        return body, headers

    def deliver(self, payload: dict[str, Any]) -> Delivery:
        """Send a payload of `messages.webhook_payload`. Never raises for network errors or error responses."""
        body, headers = self.message(payload)
        try:
            response = http_client.post(self.url, body, headers, TIMEOUT_SECONDS, attempts=ATTEMPTS)
        except http_client.NoResponseError as error:
            return Delivery(ATTEMPTS, f"{self.display_name}: {error}")
        except Exception as error:  # noqa: BLE001 - one invalid address must not prevent delivery to the others
            return Delivery(1, f"{self.display_name}: {type(error).__name__}")
        accepted = 200 <= response.status < 300
        return Delivery(response.attempts, "" if accepted else f"{self.display_name}: HTTP {response.status}")


def destinations_from_settings() -> list[Destination]:
    """Destinations from the settings.

    SPANLEDGER_SLACK_WEBHOOK, SPANLEDGER_PAGERDUTY_KEY (an integration's routing key), SPANLEDGER_ALERT_WEBHOOK; each may name
    several, separated by spaces.

    Raises:
        DatabaseError: an address is not a valid URL.
    """
    destinations = [Destination("slack", url) for url in _split_setting("slack_webhook")]
    pagerduty = settings.setting("pagerduty_url") or PAGERDUTY_URL
    destinations += [Destination("pagerduty", pagerduty, key) for key in _split_setting("pagerduty_key")]
    secret = settings.setting("alert_webhook_secret") or ""
    destinations += [Destination("webhook", url, secret) for url in _split_setting("alert_webhook")]
    for destination in destinations:
        if not _is_url(destination.url):
            raise DatabaseError(
                f"the address of {destination.kind} is not a valid URL: use https://..., separated by spaces"
            )
    return destinations


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and ",http" not in url
    except ValueError:
        return False


def _split_setting(name: str) -> Iterable[str]:
    return (settings.setting(name) or "").split()
