"""The span processor that makes a call a row: who, how much, and onto disk.

On start it adds the attribution. Just before the end it adds the price: `_on_ending` cannot do that in
opentelemetry-sdk 1.45 (attributes are frozen before it is called, opentelemetry-python#5614), so the
span's `end` is wrapped on the instance, which only uses the span's public methods. After the end the
span goes to the spool; sampling does not matter. Of other spans only those that serve a request are touched:
they get the sum of the request's calls (`requests.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from spanledger import attributes as a
from spanledger.attributing import attribution
from spanledger.encoding import Encoder
from spanledger.guard import quietly
from spanledger.losses import NOT_STRICT, Strictness, losses
from spanledger.pricing import Price, quote
from spanledger.pricing.price import ERROR, GROUP_OF, NOT_BILLED, OTHER, PROVIDER_REPORTED
from spanledger.requests import OpenRequests, Total
from spanledger.spans import before_end, plain, put, remembered
from spanledger.spool import Spool
from spanledger.usage import Usage, from_attributes

COST_OF: Final = {
    "input": a.COST_INPUT,
    "cache_read": a.COST_CACHE_READ,
    "cache_write": a.COST_CACHE_WRITE,
    "output": a.COST_OUTPUT,
    "tools": a.COST_TOOLS,
    OTHER: a.COST_OTHER,
}
"""Group of components -> the attribute that has their sum."""

COST_OF_METER: Final = {meter: COST_OF[group] for meter, group in GROUP_OF.items()}


class LedgerProcessor(SpanProcessor):
    """Attribution on start, price before the end, the spool after it. Raises nothing into the host."""

    def __init__(
        self, spool: Spool, strict: Strictness = NOT_STRICT, flush: Callable[[float], bool] = lambda _: True
    ) -> None:
        """`flush` ships what is spooled, within a number of seconds."""
        self._spool = spool
        self._flush = flush
        self._encoder = Encoder()
        self._requests = OpenRequests()
        self.strictness = strict

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        with quietly("starting a span"):
            scope = span.instrumentation_scope
            if scope is not None and scope.name.startswith(a.SCOPE_PREFIX):
                self._begin(span, parent_context)
            else:
                total = self._requests.started(span)
                if total is not None:
                    before_end(span, lambda: put(span, total.attributes()) if total.calls else None)

    def _begin(self, span: Span, parent_context: Context | None) -> None:
        facts = attribution(parent_context)
        total = self._requests.of(span)
        if a.ATTRIBUTION_REASON in facts:
            if total is not None and total.from_elsewhere and facts[a.ATTRIBUTION_REASON] == "no_baggage":
                facts[a.CONTEXT_LOST_AT] = "ingress"
            losses.lost(facts)
        before_end(span, lambda: self._settle(span, facts, total))
        self.strictness.check(facts)

    def _settle(self, span: Span, facts: dict[str, Any], total: Total | None) -> None:
        """Put the attribution, its number and its price on a call that is about to end.

        A price that fails takes nothing with it: the row is without one, and says so.
        """
        with quietly("settling a call"):
            usage = remembered(span)
            attributes = plain(span)
            facts[a.PROCESS_ID] = self._spool.process_id
            if not attributes.get(a.RECORD_ID):  # a row that any process may write has no number of this one's
                facts[a.SEQUENCE] = self._spool.next_sequence()
            facts[a.PRICE_STATUS] = ERROR
            with quietly("pricing a call"):
                facts.update(cost_attributes(attributes, usage))
            put(span, facts)
            if total is not None:
                total.add(facts, usage.total if usage else 0)

    def on_end(self, span: ReadableSpan) -> None:
        with quietly("spooling a call"):
            scope = span.instrumentation_scope
            if scope is not None and scope.name.startswith(a.SCOPE_PREFIX):
                facts = span.attributes or {}
                sequence, cost = facts.get(a.SEQUENCE), facts.get(a.COST_TOTAL)
                self._spool.append(
                    self._encoder.line(span),
                    sequence if isinstance(sequence, int) else None,
                    cost if isinstance(cost, int) else 0,
                )
            else:
                self._requests.ended(span)

    def after_fork(self) -> None:
        """In a forked child: a process of its own."""
        self._spool.after_fork()
        self._requests.after_fork()

    def shutdown(self) -> None:
        self._spool.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Rows are on disk when a span has ended; where a destination is configured they are also shipped now."""
        with quietly("flushing"):
            return self._flush(timeout_millis / 1000)
        return False


def cost_attributes(attributes: Mapping[str, Any], usage: Usage | None = None) -> dict[str, Any]:
    """Price the call that a span's attributes describe, as attributes.

    `usage` saves reading it from the attributes where it is at hand.
    """
    if attributes.get(a.OUTCOME) == "error" and not _maybe_billed(attributes):
        return {a.PRICE_STATUS: NOT_BILLED}
    return price_attributes(_quote(attributes, usage or from_attributes(attributes)))


def _maybe_billed(attributes: Mapping[str, object]) -> bool:
    """Whether an attempt ended without an answer: it may have been served, and sold, all the same."""
    billed = attributes.get(a.ATTEMPT_BILLED)
    return isinstance(billed, tuple | list) and "unknown" in billed


def _quote(attributes: Mapping[str, Any], usage: Usage | None) -> Price:
    get = attributes.get
    return quote(
        get(a.PROVIDER, ""),
        get(a.RESPONSE_MODEL),
        usage,
        request_model=get(a.REQUEST_MODEL),
        tier="batch" if get(a.BATCH) is True else get(a.SERVICE_TIER, ""),
        geo=get(a.INFERENCE_GEO, ""),
        speed=get(a.SPEED, ""),
        host=get(a.SERVER_ADDRESS, ""),
        provider_cost_usd=get(a.PROVIDER_COST),
        size=get(a.MEDIA_SIZE, ""),
        quality=get(a.MEDIA_QUALITY, ""),
    )


def price_attributes(price: Price) -> dict[str, Any]:
    """A price as span attributes: exact integers for the ledger, the proposed cost trio for people."""
    found = _named(price.status, price.key, price.source, price.version, price.flags).copy()
    total = price.total_picousd
    if total is not None:
        found[a.COST_TOTAL] = total
        found[a.COST_AMOUNT] = total / 1e12
        for part in price.components:
            name = COST_OF_METER.get(part.meter, a.COST_OTHER)
            found[name] = found.get(name, 0) + part.amount
    if price.computed_picousd is not None:
        found[a.COST_COMPUTED] = price.computed_picousd
    return found


@lru_cache(maxsize=1024)
def _named(
    status: str, key: str | None, source: str | None, version: str | None, flags: tuple[str, ...]
) -> dict[str, Any]:
    """What is the same for every call of a model; the caller copies it."""
    found: dict[str, Any] = {a.PRICE_STATUS: status}
    if not status.startswith("unpriced:"):
        found[a.COST_CURRENCY] = "USD"
        found[a.COST_SOURCE] = "provider" if status == PROVIDER_REPORTED else "local"
    for name, value in ((a.PRICE_KEY, key), (a.PRICE_SOURCE, source), (a.PRICE_VERSION, version)):
        if value is not None:
            found[name] = value
    if flags:
        found[a.PRICE_FLAGS] = flags
    return found
