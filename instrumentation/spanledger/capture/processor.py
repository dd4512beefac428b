"""Span processor that turns a call into a row: adds attribution and price, and writes it to the spool.

On start it adds the attribution. Just before the end it adds the price: `_on_ending` cannot do that in
opentelemetry-sdk 1.45 (attributes are frozen before it is called, opentelemetry-python#5614), so the
span's `end` is wrapped on the instance, which only uses the span's public methods. After the end the
span goes to the spool; sampling does not matter. Of other spans only those that serve a request are touched:
they get the sum of the request's calls (`request_totals.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from spanledger.capture import run_steps
from spanledger.capture.call_metrics import CallMetrics
from spanledger.capture.chunk_times import ChunkTimes
from spanledger.capture.request_totals import OpenRequests, RequestTotal
from spanledger.context.baggage import attribution_attributes
from spanledger.context.unattributed import NOT_STRICT, Strictness, unattributed_calls
from spanledger.pricing.price import ERROR
from spanledger.pricing.span_costs import cost_attributes
from spanledger.runtime import forks
from spanledger.runtime.finalizers import is_main_hub
from spanledger.runtime.guard import quietly
from spanledger.runtime.span_attributes import (
    before_end,
    copy_attributes,
    set_attributes_fast,
    set_whole,
    stashed_chunk_times,
    stashed_usage,
    whole_attribute,
)
from spanledger.semconv import attributes as a
from spanledger.semconv import vendors
from spanledger.semconv.usage import Usage
from spanledger.spool.otlp_json import Encoder
from spanledger.spool.writer import Spool


class LedgerProcessor(SpanProcessor):
    """Attribution on start, price before the end, the spool after it. Raises nothing into the host."""

    def __init__(
        self,
        spool: Spool,
        strict: Strictness = NOT_STRICT,
        flush: Callable[[float], bool] = lambda _: True,
        start: Callable[[], object] = lambda: None,
        call_metrics: CallMetrics | None = None,
        also_for: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            spool: receives the rows.
            strict: what a call must be attributed to.
            flush: ships what is spooled, within a number of seconds.
            start: starts the threads of a process; called when the first call of a forked child begins, and, where the
                process has none yet, when any call does.
            call_metrics: counts the calls.
            also_for: back ends whose own names of tokens and cost a span has as well (`vendors.VENDORS`).
        """
        self._spool = spool
        self._flush = flush
        self._start = start
        self._start_token = [True]
        self._metrics = call_metrics
        self._translate = vendors.translator(also_for) if also_for else None
        self._encoder = Encoder(vendors.NAMES if also_for else frozenset())
        self._requests = OpenRequests()
        self.strictness = strict

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        with quietly("starting a span"):
            scope = span.instrumentation_scope
            if scope is not None and scope.name.startswith(a.SCOPE_PREFIX):
                self._begin(span, parent_context)
            else:
                run_steps.remember_parent(span, parent_context)
                total = self._requests.on_span_start(span, parent_context)
                if total is not None:
                    before_end(span, lambda: set_attributes_fast(span, total.attributes()) if total.calls else None)

    @property
    def is_new(self) -> bool:
        """Whether the threads of this process have not been started."""
        return bool(self._start_token)

    def enter_process(self) -> None:
        """Start what belongs to a process, if that has not happened yet and may happen here."""
        forks.check()
        if self._start_token and is_main_hub() and forks.threads_allowed():
            try:
                self._start_token.pop()
            except IndexError:  # another thread was first
                return
            with quietly("starting threads"):
                try:
                    self._start()
                except BaseException:
                    self._start_token.append(True)  # the next call tries again
                    raise

    def _begin(self, span: Span, parent_context: Context | None) -> None:
        self.enter_process()
        facts = attribution_attributes(parent_context)
        with quietly("remembering the span around"):
            run_steps.remember_parent(span, parent_context, is_call=True)
        if a.MARKER in (span.attributes or {}):  # it says who began a job: no call
            before_end(span, lambda: set_attributes_fast(span, facts))
            return
        total = self._requests.total_for(span)
        if total is not None and total.is_remote and facts.get(a.ATTRIBUTION_REASON) == "no_baggage":
            facts[a.CONTEXT_LOST_AT] = "ingress"
        before_end(span, lambda: self._settle(span, facts, total))
        if a.BEGUN_JOB_ID not in (span.attributes or {}):  # of a job, the ledger knows who began it
            if a.ATTRIBUTION_REASON in facts:
                unattributed_calls.record(facts)
            self.strictness.check(facts)

    def _settle(self, span: Span, facts: dict[str, Any], total: RequestTotal | None) -> None:
        """Put the attribution, its number and its price on a call that is about to end.

        If pricing fails, the row is still written, without a price and with status `error`.
        """
        with quietly("settling a call"):
            usage = stashed_usage(span)
            attributes = copy_attributes(span)
            facts[a.PROCESS_ID] = self._spool.process_id
            with quietly("reading the steps of a run"):
                facts.update(run_steps.step_attributes(span))
            if a.RESULT_LINES in attributes:  # many rows, numbered and priced where they are made
                set_attributes_fast(span, facts)
                if self._metrics is not None:
                    self._metrics.record_lines({**attributes, **facts})
                return
            if not attributes.get(a.JOB_ID):  # a row that any process may write has no number of this one's
                facts[a.SEQUENCE] = self._spool.next_sequence()
            facts[a.PRICE_STATUS] = ERROR
            with quietly("pricing a call"):
                facts.update(cost_attributes(attributes, usage))
            attributes.update(facts)
            if a.CACHE_HIT in attributes:  # the usage is that of the answer when it was bought
                usage = None
            if self._translate is not None:
                with quietly("translating a call"):
                    for name, value in self._translate(attributes, usage).items():
                        set_whole(span, name, value)
            set_attributes_fast(span, facts)
            if total is not None:
                total.add(facts, usage.total if usage else 0, attributes.get(a.COST_COUNTED, 0))
            if self._metrics is not None:
                with quietly("counting a call"):
                    _count(self._metrics, span, attributes, usage)

    def on_end(self, span: ReadableSpan) -> None:
        with quietly("spooling a call"):
            scope = span.instrumentation_scope
            if scope is not None and scope.name.startswith(a.SCOPE_PREFIX):
                sequence, cost = whole_attribute(span, a.SEQUENCE), whole_attribute(span, a.COST_TOTAL)
                self._spool.append(
                    self._encoder.line(span),
                    sequence if isinstance(sequence, int) else None,
                    cost if isinstance(cost, int) else 0,
                )
            else:
                self._requests.on_span_end(span)

    def after_fork(self) -> None:
        """In a forked child: a process of its own."""
        self._spool.after_fork()
        self._requests.after_fork()
        if self._metrics is not None:
            self._metrics.after_fork()
        self._start_token = [True]

    def shutdown(self) -> None:
        self._spool.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Rows are on disk when a span has ended; where a destination is configured they are also shipped now."""
        with quietly("flushing"):
            return self._flush(timeout_millis / 1000)
        return False


def _count(call_metrics: CallMetrics, span: Span, attributes: dict[str, Any], usage: Usage | None) -> None:
    """The metrics of a call: what its row adds to the ledger, and, of a request, how long it took.

    Of a row that grows, tokens are counted with its first statement alone: a later one repeats them.
    """
    cost, counted = attributes.get(a.COST_TOTAL), attributes.get(a.COST_COUNTED, 0)
    seconds = None
    if span.start_time is not None and a.JOB_ID not in attributes and a.CHARGE_AMOUNT not in attributes:
        seconds = (time.time_ns() - span.start_time) / 1e9
    times: ChunkTimes | None = stashed_chunk_times(span)
    call_metrics.record(
        attributes,
        None if counted else usage,
        None if cost is None else cost - counted,
        seconds,
        times.gaps if times else (),
    )
