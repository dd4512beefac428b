"""Where a spool's lines go: ClickHouse directly, or an OpenTelemetry Collector over OTLP/HTTP.

A sink returns when what it was given is safe, raises `PoisonError` for what will never be taken, and any other
`DatabaseError` for what may be sent again.
"""

from __future__ import annotations

import gzip
import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol, cast
from urllib.parse import unquote, urlsplit

from spanledger.runtime import settings
from spanledger.runtime.guard import log
from spanledger.runtime.untrusted_json import at, document, items
from spanledger_clickhouse.database import insert, migrations
from spanledger_clickhouse.database.connection import DatabaseError, Target, reason, target
from spanledger_clickhouse.database.insert import PoisonError
from spanledger_clickhouse.rows.rows import Contents


class Line(NamedTuple):
    """One line of a spool."""

    raw: bytes
    contents: Contents


class Sink(Protocol):
    """Takes lines."""

    @property
    def shown(self) -> str:
        """Where the lines go, without any password."""
        ...

    def send(self, lines: Sequence[Line]) -> None: ...
    def rest(self) -> None:
        """Nothing is to be sent for a while: let go what others may want."""
        ...

    def close(self) -> None: ...


class ClickHouseSink:
    """Inserts rows and markers; connects, and applies the schema, when there is something to send."""

    def __init__(self, target: Target, client: Any = None) -> None:
        """`client`: an open connection whose schema is in place; the caller closes it."""
        self._where = target
        self._client = client
        self._given = client is not None

    @property
    def shown(self) -> str:
        return self._where.shown

    def send(self, lines: Sequence[Line]) -> None:
        try:
            if self._client is None:
                self._client = migrations.ready(self._where)
            insert.insert(self._client, self._where, [row for line in lines for row in line.contents.rows])
            insert.insert_events(self._client, self._where, [event for line in lines for event in line.contents.events])
        except PoisonError:
            raise
        except DatabaseError:
            if not self._given:
                self.close()  # the next attempt begins with a connection of its own
            raise

    def rest(self) -> None:
        if self._where.embedded:  # it serves one process at a time
            self.close()

    def close(self) -> None:
        if self._client is not None and not self._given:
            client, self._client = self._client, None
            try:
                client.close()
            except Exception:  # noqa: BLE001 - whatever closing fails at, the work is done
                return


SET_UP: Final = (401, 403, 404, 405)
"""Statuses that say something about how the receiver is set up, not about the rows."""
RETRYABLE: Final = frozenset({408, 429, 502, 503, 504})
"""HTTP statuses after which OTLP/HTTP sends again (opentelemetry.io/docs/specs/otlp, and 408)."""


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a POST would become a GET without its body, and any page's 200 would pass for a commit."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


OPENER: Final = urllib.request.build_opener(_Straight)


class OtlpSink:
    """Posts lines as they are to a Collector's OTLP/HTTP receiver."""

    TIMEOUT: Final = 30.0

    def __init__(self, endpoint: str) -> None:
        """
        Args:
            endpoint: the receiver's base URL, e.g. http://127.0.0.1:4318; `/v1/traces` is added where it lacks.

        Raises:
            DatabaseError: it is no http(s) URL.
        """
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DatabaseError(f"SPANLEDGER_OTLP_ENDPOINT={settings.masked(endpoint)!r} is no http(s) URL")
        self._headers = _headers()
        self._url = endpoint if endpoint.endswith("/v1/traces") else f"{endpoint.rstrip('/')}/v1/traces"

    @property
    def shown(self) -> str:
        return settings.masked(self._url)

    def send(self, lines: Sequence[Line]) -> None:
        spans = [part for line in lines for part in items(document(line.raw), "resourceSpans")]
        body = gzip.compress(json.dumps({"resourceSpans": spans}, separators=(",", ":")).encode(), 1)
        headers = {**self._headers, "Content-Type": "application/json", "Content-Encoding": "gzip"}
        request = urllib.request.Request(self._url, body, headers)  # noqa: S310 - http(s) only, see __init__
        try:
            with OPENER.open(request, timeout=self.TIMEOUT) as answer:
                self._read(answer.read(1 << 20), len(lines))
        except urllib.error.HTTPError as error:
            with error:
                kind = (
                    DatabaseError
                    if error.code in RETRYABLE or 300 <= error.code < 400 or error.code in SET_UP
                    else PoisonError
                )
                raise kind(f"{self.shown} answered {error.code} {error.reason}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise DatabaseError(f"cannot reach the Collector at {self.shown}: {reason(error)}") from error

    def _read(self, answer: bytes, sent: int) -> None:
        response: object = document(answer) if answer.strip() else {"partialSuccess": None}
        if not isinstance(response, dict):
            raise DatabaseError(f"{self.shown} is no OTLP receiver: its answer is no JSON object")
        rejected = at(cast("object", response), "partialSuccess", "rejectedSpans")
        if rejected not in (None, 0, "0"):
            # The rest was taken, and OTLP forbids to send any of it again.
            why = str(at(cast("object", response), "partialSuccess", "errorMessage"))[:200]
            log.error("%s rejected %s of %s spans for good: %s", self.shown, rejected, sent, why)

    def rest(self) -> None:
        pass  # a connection is nobody else's

    def close(self) -> None:
        """Nothing is kept open."""


def _headers() -> dict[str, str]:
    """SPANLEDGER_OTLP_HEADERS, in the form of OTEL_EXPORTER_OTLP_HEADERS: `authorization=Bearer%20<token>,x-scope=a`.

    Raises:
        DatabaseError: a part of it is no header. The message does not quote it: it may be a secret.
    """
    headers: dict[str, str] = {}
    for number, part in enumerate((settings.setting("otlp_headers") or "").split(","), 1):
        name, equals, value = (unquote(word).strip() for word in part.partition("="))
        if part.strip() and not (equals and HEADER.fullmatch(name) and value.isprintable()):
            raise DatabaseError(f"part {number} of SPANLEDGER_OTLP_HEADERS is no name=value")
        if name:
            headers[name] = value
    return headers


HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_|~-]+")


def configured() -> Sink | None:
    """The sink that the settings name: a Collector, else a ClickHouse server; None where neither is set.

    Raises:
        DatabaseError: what is set is no address.
    """
    endpoint = settings.setting("otlp_endpoint")
    if endpoint:
        return OtlpSink(endpoint)
    dsn = settings.setting("dsn")
    if dsn is None or dsn.startswith("chdb:"):
        return None  # the application never opens the embedded engine: the rows wait for a command
    return ClickHouseSink(target(dsn))
