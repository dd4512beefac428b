"""Sampling decides what a trace back end gets, not what the ledger holds.

`KeepCalls` leaves every decision of another sampler as it is, except that a GenAI span it would drop is recorded
(RECORD_ONLY) without being sampled: span processors see it, exporters do not, and its children are sampled as
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


class KeepCalls(Sampler):
    """Another sampler's decisions, and every LLM call recorded."""

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
        if sampling_result.decision is Decision.DROP and attributes and a.OPERATION in attributes:
            return SamplingResult(Decision.RECORD_ONLY, attributes, sampling_result.trace_state)
        return sampling_result

    def get_description(self) -> str:
        return f"KeepCalls({self.inner.get_description()})"


def keep_calls(provider: TracerProvider) -> None:
    """Put `KeepCalls` around a provider's sampler, once. Tracers made before keep the old one; ours come after."""
    sampler: Any = provider.sampler
    if not isinstance(sampler, KeepCalls):
        provider.sampler = KeepCalls(sampler)
