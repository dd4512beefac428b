"""Span exporter for `OTEL_TRACES_EXPORTER=spanledger_clickhouse`: writes LLM spans to the spool.

Where Spanledger's own pipeline records in this process the exporter does nothing, so that a row is
written once. Without it, the sampled spans of Spanledger's scopes go to the spool, and from there to
ClickHouse by the background shipper or `spanledger ship`: an exporter's retries are the shipper's, and a row
outlives both them and the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from spanledger import bootstrap
from spanledger.runtime import forks
from spanledger.runtime.guard import quietly
from spanledger.semconv import attributes as a
from spanledger.spool.otlp_json import Encoder
from spanledger.spool.writer import Spool
from spanledger_clickhouse.ship.background_thread import BackgroundShipper


class LedgerSpanExporter(SpanExporter):
    """Span exporter: writes LLM spans to the spool, and ships the spool if a destination is configured."""

    def __init__(self, **_: Any) -> None:
        self._spool: Spool | None = None
        self._shipper: BackgroundShipper | None = None
        self._resource = Resource.get_empty()
        self._encoder = Encoder()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if bootstrap.is_attached() or bootstrap.disabled():
            return SpanExportResult.SUCCESS
        written = False
        with quietly("exporting spans"):
            refused = 0
            for span in spans:
                scope = span.instrumentation_scope
                if scope is not None and scope.name.startswith(a.SCOPE_PREFIX):
                    self._resource = span.resource
                    refused += not self._open_spool().append(self._encoder.line(span))
            written = not refused
        return SpanExportResult.SUCCESS if written else SpanExportResult.FAILURE

    def _open_spool(self) -> Spool:
        if self._spool is None:
            self._spool = bootstrap.new_spool(lambda: self._resource)
            forks.in_child(self._after_fork)
        forks.check()
        if self._shipper is None and forks.threads_allowed():
            self._shipper = BackgroundShipper(self._spool)
            self._shipper.start()
        return self._spool

    def _after_fork(self) -> None:
        """Give a forked child its own spool, and with its first span a shipper."""
        self._shipper = None
        if self._spool is not None:
            self._spool.after_fork()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Ship the exported spans within the deadline; rows that are not shipped by then stay on disk."""
        with quietly("flushing"):
            timeout = min(timeout_millis / 1000, bootstrap.flush_timeout())
            if bootstrap.ships():
                return self._shipper is not None and self._shipper.flush(timeout)
            return self._spool is None or self._spool.is_written(timeout)
        return False

    def shutdown(self) -> None:
        with quietly("ending"):
            if self._spool is not None:
                self._spool.close()
            if self._shipper is not None:
                self._shipper.stop()
