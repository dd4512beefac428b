"""Sums the cost of all calls of an application request, and sets it on the server span.

The processor sees every recorded span start and end, so the server span of a call is found by walking up
the spans that are open now; where a span in between has ended already (a task that outlived its parent), by
the trace. A call that ends after the server span is too late for it; the view `request_cost` has it all the same.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import SpanKind

from spanledger.context.open_scopes import next_order, owner
from spanledger.semconv import attributes as a

SERVER_KINDS: Final = (SpanKind.SERVER, SpanKind.CONSUMER)
MAX_OPEN: Final = 20_000
"""Spans remembered at a time; the oldest are forgotten first (spans that never end)."""


class RequestTotal:
    """The calls of one request so far."""

    def __init__(self, span: Span, *, is_remote: bool) -> None:
        self.span = span
        self.is_remote = is_remote
        """Whether the trace came from another service."""
        self.inherited: Mapping[str, object] = {}
        """Baggage of a request that was over when this one began, in whose context it did."""
        self.owner = owner()
        """The thread, and its task, in which it began."""
        self.number = next_order()
        self.outer: RequestTotal | None = None
        """The request of the same trace in which this one began (a message that is handled where it was sent)."""
        self._is_over = False
        self._process = os.getpid()
        self.calls = 0
        self.tokens = 0
        self.picousd = 0
        self.unpriced = 0
        self._lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        """Whether its span has ended, or belongs to the process that this one was forked from."""
        return self._is_over or self._process != os.getpid()

    def end(self) -> None:
        self._is_over = True

    def add(self, facts: Mapping[str, Any], tokens: int, counted: int = 0) -> None:
        """Add a call. `counted`: picodollars of it that were added before."""
        cost = facts.get(a.COST_TOTAL)
        with self._lock:
            self.calls += 1
            self.tokens += tokens
            if cost is not None:
                self.picousd += cost - counted
            elif str(facts.get(a.PRICE_STATUS)).startswith("unpriced:"):
                self.unpriced += 1

    def attributes(self) -> dict[str, int]:
        totals = {a.REQUEST_CALLS: self.calls, a.REQUEST_TOKENS: self.tokens, a.REQUEST_COST: self.picousd}
        return {**totals, a.REQUEST_UNPRICED: self.unpriced} if self.unpriced else totals


class OpenRequests:
    """Tracks the open server spans, and maps each open span to its server span."""

    def __init__(self) -> None:
        self._by_span: OrderedDict[int, RequestTotal | None] = OrderedDict()
        self._by_trace: OrderedDict[int, RequestTotal] = OrderedDict()
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """In a forked child: the spans of the parent's requests are the parent's."""
        self._lock = threading.Lock()

    def on_span_start(self, span: Span, parent_context: Context | None = None) -> RequestTotal | None:
        """Register a started span; returns its total if it is a server or consumer span."""
        context, parent = span.get_span_context(), span.parent
        outer: RequestTotal | None = getattr(trace.get_current_span(parent_context), "_spanledger_request", None)
        if span.kind in SERVER_KINDS:
            total = RequestTotal(span, is_remote=parent is not None and parent.is_remote)
            if outer is not None and outer.is_over:
                total.inherited = dict(baggage.get_all(parent_context))
            _note_request(span, total)
            with self._lock:
                total.outer = self._by_trace.get(context.trace_id)
                _put_bounded(self._by_trace, context.trace_id, total)
                _put_bounded(self._by_span, context.span_id, total)
            return total
        if outer is not None:
            _note_request(span, outer)
        if self._by_trace:
            with self._lock:
                _put_bounded(self._by_span, context.span_id, self._total_for_parent(parent))
        return None

    def _total_for_parent(self, parent: Any) -> RequestTotal | None:
        """The request that the child of `parent` belongs to."""
        if parent is None:
            return None
        return self._by_span.get(parent.span_id) or self._by_trace.get(parent.trace_id)

    def total_for(self, span: ReadableSpan) -> RequestTotal | None:
        """The request that a call belongs to, if its server span is still open."""
        with self._lock:
            return self._total_for_parent(span.parent) if self._by_trace else None

    def on_span_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is None or not self._by_span:
            return
        with self._lock:
            total = self._by_span.pop(context.span_id, None)
            if total is not None and total.span.get_span_context() == context:
                total.end()
                self._forget(context.trace_id, total)

    def _forget(self, trace_id: int, total: RequestTotal) -> None:
        """The trace's request is the one around `total` again, if that is open."""
        if self._by_trace.get(trace_id) is not total:
            return
        outer = total.outer
        while outer is not None and outer.is_over:
            outer = outer.outer
        if outer is None:
            del self._by_trace[trace_id]
        else:
            self._by_trace[trace_id] = outer


def _note_request(span: Any, total: RequestTotal) -> None:
    """Let whoever has the span in his context know its request (`context/open_scopes.py`)."""
    span.__dict__["_spanledger_request"] = total


def _put_bounded(entries: OrderedDict[int, Any], key: int, value: Any) -> None:
    entries[key] = value
    if len(entries) > MAX_OPEN:
        name, oldest = entries.popitem(last=False)
        if oldest is not None and name == oldest.span.get_span_context().span_id:
            oldest.end()  # nobody will say so any more
