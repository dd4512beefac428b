"""Sampler wrapper: sampling limits what a tracing backend receives, not what the ledger records.

`RecordCallsSampler` leaves every decision of another sampler as it is, except that a GenAI span it would drop is
recorded (RECORD_ONLY) without being sampled: span processors see it, exporters do not, and its children are sampled as
they would have been.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from spanledger.semconv import attributes as a


class RecordCallsSampler(Sampler):
    """Delegates to another sampler, and records every LLM call that it would drop."""

    def __init__(self, inner: Sampler) -> None:
        self.inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        sampling_result = self.inner.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        is_ours = attributes is not None and (a.OPERATION in attributes or a.MARKER in attributes)
        if sampling_result.decision is Decision.DROP and is_ours:
            return SamplingResult(Decision.RECORD_ONLY, attributes, sampling_result.trace_state)
        return sampling_result

    def get_description(self) -> str:
        return f"RecordCallsSampler({self.inner.get_description()})"


def wrap_sampler(provider: TracerProvider) -> None:
    """Wrap a provider's sampler in `RecordCallsSampler`, once. Existing tracers keep the old one; ours come later."""
    sampler: Any = provider.sampler
    if not isinstance(sampler, RecordCallsSampler):
        provider.sampler = RecordCallsSampler(sampler)
