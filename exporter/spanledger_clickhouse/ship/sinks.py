"""Destinations of spool lines: ClickHouse directly, or an OpenTelemetry Collector over OTLP/HTTP.

A sink returns after the lines are committed, raises `PoisonError` for lines that are refused permanently, `SuspectError`
where either side may be at fault, and any other `DatabaseError` for lines that may be sent again.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol, cast
from urllib.parse import unquote, urlsplit

from spanledger.runtime import settings
from spanledger.runtime.guard import log
from spanledger.runtime.untrusted_json import get_path, items, parse_json
from spanledger_clickhouse.database import insert, migrations
from spanledger_clickhouse.database.connection import DatabaseError, Target, resolve_target
from spanledger_clickhouse.database.insert import ExpiredRows, PoisonError, SuspectError
from spanledger_clickhouse.rows.rows import Contents


class SpoolLine(NamedTuple):
    """One line of a spool."""

    raw: bytes
    contents: Contents


class Sink(Protocol):
    """Destination that receives spool lines."""

    @property
    def shown(self) -> str:
        """Where the lines go, without any password."""
        ...

    def send(self, lines: Sequence[SpoolLine]) -> None: ...
    def expired(self) -> ExpiredRows | None:
        """Which rows the destination would not keep; None if it keeps all, or cannot say."""
        ...

    def on_idle(self) -> None:
        """Idle hook: release resources that other processes may need."""
        ...

    def close(self) -> None: ...


class ClickHouseSink:
    """Inserts rows and markers; connects and migrates on the first send."""

    def __init__(self, target: Target, client: Any = None) -> None:
        """`client`: an open connection whose schema is in place; the caller closes it."""
        self._target = target
        self._client = client
        self._has_external_client = client is not None

    @property
    def shown(self) -> str:
        return self._target.masked_dsn

    def expired(self) -> ExpiredRows | None:
        return ExpiredRows(self._connected(), self._target)

    def _connected(self) -> Any:
        if self._client is None:
            self._client = migrations.connect_and_migrate(self._target)
        return self._client

    def send(self, lines: Sequence[SpoolLine]) -> None:
        try:
            client = self._connected()
            insert.insert_contents(client, self._target, (line.contents for line in lines))
        except (PoisonError, SuspectError):
            raise
        except DatabaseError:
            if not self._has_external_client:
                self.close()  # the next attempt opens a new connection
            raise

    def on_idle(self) -> None:
        if self._target.embedded:  # only one process at a time can open it
            self.close()

    def close(self) -> None:
        if self._client is not None and not self._has_external_client:
            client, self._client = self._client, None
            try:
                client.close()
            except Exception:  # noqa: BLE001 - an error while closing does not matter: the work is done
                return


SETUP_STATUSES: Final = (401, 403, 404, 405)
"""HTTP statuses of a misconfigured receiver, not of bad rows."""
RETRYABLE_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
"""HTTP statuses that OTLP/HTTP retries (opentelemetry.io/docs/specs/otlp, and 408)."""


def _kind_of(status: int) -> type[DatabaseError]:
    """Whose fault an HTTP status is; 400 means bad lines in OTLP, but any proxy answers it, too."""
    return DatabaseError if status in RETRYABLE_STATUSES or status in SETUP_STATUSES or status < 400 else SuspectError


class OtlpSink:
    """Posts lines unchanged to a Collector's OTLP/HTTP receiver."""

    TIMEOUT: Final = 30.0

    def __init__(self, endpoint: str) -> None:
        """
        Args:
            endpoint: the receiver's base URL, e.g. http://127.0.0.1:4318; `/v1/traces` is appended if it is missing.

        Raises:
            DatabaseError: the endpoint is not an http(s) URL.
        """
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DatabaseError(
                f"SPANLEDGER_OTLP_ENDPOINT={settings.mask_credentials(endpoint)!r} is not a valid http(s) URL"
            )
        self._headers = _headers()
        self._url = endpoint if endpoint.endswith("/v1/traces") else f"{endpoint.rstrip('/')}/v1/traces"

    @property
    def shown(self) -> str:
        return settings.mask_credentials(self._url)

    def expired(self) -> None:
        """A Collector does not say how long its destination keeps calls."""

    def send(self, lines: Sequence[SpoolLine]) -> None:
        spans = [part for line in lines for part in items(parse_json(line.raw), "resourceSpans")]
        body = gzip.compress(json.dumps({"resourceSpans": spans}, separators=(",", ":")).encode(), 1)
        headers = {**self._headers, "Content-Type": "application/json", "Content-Encoding": "gzip"}
        from spanledger_clickhouse import http_client

        try:
            response = http_client.post(self._url, body, headers, self.TIMEOUT, max_body=1 << 20)
        except http_client.NoResponseError as error:
            raise DatabaseError(f"cannot reach the Collector at {self.shown}: {error}") from error
        if not 200 <= response.status < 300:
            raise _kind_of(response.status)(f"{self.shown} answered {response.status} {response.reason}")
        self._check_response(response.body, len(lines))

    def _check_response(self, answer: bytes, sent: int) -> None:
        response: object = parse_json(answer) if answer.strip() else {"partialSuccess": None}
        if not isinstance(response, dict):
            raise DatabaseError(f"{self.shown} is not an OTLP receiver: its response is not a JSON object")
        rejected = get_path(cast("object", response), "partialSuccess", "rejectedSpans")
        if rejected not in (None, 0, "0"):
            # The rest was accepted, and OTLP forbids resending any of it.
            why = str(get_path(cast("object", response), "partialSuccess", "errorMessage"))[:200]
            log.error("%s permanently rejected %s of %s spans: %s", self.shown, rejected, sent, why)

    def on_idle(self) -> None:
        pass  # connections are not shared

    def close(self) -> None:
        """Nothing is kept open."""


def _headers() -> dict[str, str]:
    """SPANLEDGER_OTLP_HEADERS, in the form of OTEL_EXPORTER_OTLP_HEADERS: `authorization=Bearer%20<token>,x-scope=a`.

    Raises:
        DatabaseError: a part is not a valid header. The message does not quote it, as it may be a secret.
    """
    headers: dict[str, str] = {}
    for number, part in enumerate((settings.setting("otlp_headers") or "").split(","), 1):
        name, equals, value = (unquote(word).strip() for word in part.partition("="))
        if part.strip() and not (equals and HEADER.fullmatch(name) and value.isprintable()):
            raise DatabaseError(f"part {number} of SPANLEDGER_OTLP_HEADERS is not of the form name=value")
        if name:
            headers[name] = value
    return headers


HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_|~-]+")


def sink_from_settings() -> Sink | None:
    """Sink from the settings: a Collector, else a ClickHouse server; None if neither is set.

    Raises:
        DatabaseError: the configured address is not valid.
    """
    endpoint = settings.setting("otlp_endpoint")
    if endpoint:
        return OtlpSink(endpoint)
    dsn = settings.setting("dsn")
    if dsn is None or dsn.startswith("chdb:"):
        return None  # an application never opens the embedded engine: the rows wait for a command
    return ClickHouseSink(resolve_target(dsn))
