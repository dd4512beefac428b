"""`OTEL_TRACES_EXPORTER=spanledger_clickhouse`: Spanledger as an ordinary span exporter.

Where Spanledger's own pipeline records in this process the exporter does nothing, so that a row is
written once. Without it, the sampled spans of Spanledger's scopes go to the spool, and from there to
ClickHouse by the background shipper or `spanledger ship`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from spanledger import attributes as a
from spanledger import bootstrap, settings
from spanledger.encoding import Encoder
from spanledger.guard import quietly
from spanledger.spool import Spool


class LedgerSpanExporter(SpanExporter):
    """Writes the spans of LLM calls to the spool."""

    def __init__(self, **_: Any) -> None:
        self._spool: Spool | None = None
        self._encoder = Encoder()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if bootstrap.bound() or bootstrap.disabled():
            return SpanExportResult.SUCCESS
        written = True
        with quietly("exporting spans"):
            self._spool = self._spool or Spool(settings.spool_dir(), bootstrap.DEFAULT_MAX_BYTES)
            for span in spans:
                scope = span.instrumentation_scope
                if scope is not None and scope.name.startswith(a.SCOPE_PREFIX):
                    written = self._spool.append(self._encoder.line(span)) and written
        return SpanExportResult.SUCCESS if written else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        if self._spool is not None:
            self._spool.close()
