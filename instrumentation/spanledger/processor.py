"""The span processor that makes a call a row: who, how much, and onto disk.

On start it adds the attribution. Just before the end it adds the price: `_on_ending` cannot do that in
opentelemetry-sdk 1.45 (attributes are frozen before it is called, opentelemetry-python#5614), so the
span's `end` is wrapped on the instance, which only uses the span's public methods. After the end the
span goes to the spool. Only spans of Spanledger's own scopes are touched; sampling does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from spanledger import attributes as a
from spanledger.attribution import attribution
from spanledger.guard import quietly
from spanledger.pricing import Price, quote
from spanledger.pricing.price import NOT_BILLED, PROVIDER_REPORTED
from spanledger.spool import Encoder, Spool, plain
from spanledger.usage import Usage, from_attributes

GROUPS: Final = {
    a.COST_INPUT: ("input", "input_audio", "input_image", "input_video"),
    a.COST_CACHE_READ: ("cache_read", "cache_read_audio", "cache_read_image", "cache_read_video"),
    a.COST_CACHE_WRITE: ("cache_write", "cache_write_1h", "cache_write_12h"),
    a.COST_OUTPUT: ("output", "output_audio", "output_image", "output_video", "reasoning"),
    a.COST_TOOLS: ("web_searches", "file_searches", "code_sessions", "maps_queries"),
}
"""Cost attribute -> the components it sums; any other component counts as `other`."""

GROUP_OF: Final = {meter: name for name, meters in GROUPS.items() for meter in meters}


class LedgerProcessor(SpanProcessor):
    """Attribution on start, price before the end, the spool after it. Raises nothing into the host."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._encoder = Encoder()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        scope = span.instrumentation_scope
        if scope is None or not scope.name.startswith(a.SCOPE_PREFIX):
            return
        with quietly("attributing a call"):
            span.set_attributes(attribution(parent_context))
        with quietly("preparing to price a call"):
            span.end = self._priced_end(span)

    def _priced_end(self, span: Span) -> Callable[..., None]:
        def priced_end(end_time: int | None = None) -> None:
            if span.is_recording():
                with quietly("pricing a call"):
                    facts = cost_attributes(plain(span))
                    facts[a.PROCESS_ID] = self._spool.process_id
                    facts[a.SEQUENCE] = self._spool.next_sequence()
                    span.set_attributes(facts)
            span.__dict__.pop("end", None)  # the span's own again, and no cycle left for the garbage collector
            span.end(end_time)

        return priced_end

    def on_end(self, span: ReadableSpan) -> None:
        scope = span.instrumentation_scope
        if scope is not None and scope.name.startswith(a.SCOPE_PREFIX):
            with quietly("spooling a call"):
                self._spool.append(self._encoder.line(span))

    def shutdown(self) -> None:
        self._spool.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the base class's name
        """Rows are on disk when a span has ended; there is nothing to wait for."""
        return True


def cost_attributes(attributes: Mapping[str, object]) -> dict[str, str | int | float | tuple[str, ...]]:
    """Price the call that a span's attributes describe, as attributes."""
    if attributes.get(a.OUTCOME) == "error" and not _maybe_billed(attributes):
        return {a.PRICE_STATUS: NOT_BILLED}
    usage = from_attributes(attributes)
    return price_attributes(_quote(attributes, usage))


def _maybe_billed(attributes: Mapping[str, object]) -> bool:
    """Whether an attempt ended without an answer: it may have been served, and sold, all the same."""
    billed = attributes.get(a.ATTEMPT_BILLED)
    return isinstance(billed, tuple | list) and "unknown" in billed


def _quote(attributes: Mapping[str, object], usage: Usage | None) -> Price:
    def text(name: str) -> str:
        value = attributes.get(name)
        return value if isinstance(value, str) else ""

    return quote(
        text(a.PROVIDER),
        text(a.RESPONSE_MODEL) or None,
        usage,
        request_model=text(a.REQUEST_MODEL) or None,
        tier="batch" if attributes.get(a.BATCH) is True else text(a.SERVICE_TIER),
        geo=text(a.INFERENCE_GEO),
        speed=text(a.SPEED),
        host=text(a.SERVER_ADDRESS),
        provider_cost_usd=text(a.PROVIDER_COST) or None,
    )


def price_attributes(price: Price) -> dict[str, str | int | float | tuple[str, ...]]:
    """A price as span attributes: exact integers for the ledger, the proposed cost trio for people."""
    found: dict[str, str | int | float | tuple[str, ...]] = {a.PRICE_STATUS: price.status}
    if price.total_picousd is not None:
        found[a.COST_TOTAL] = price.total_picousd
        found[a.COST_AMOUNT] = price.total_picousd / 1e12
        found[a.COST_CURRENCY] = "USD"
        found[a.COST_SOURCE] = "provider" if price.status == PROVIDER_REPORTED else "local"
        for part in price.components:
            name = GROUP_OF.get(part.meter, a.COST_OTHER)
            amount = found.get(name, 0)
            found[name] = part.amount + amount if isinstance(amount, int) else part.amount
    if price.key is not None:
        found[a.PRICE_KEY] = price.key
    if price.source is not None:
        found[a.PRICE_SOURCE] = price.source
    if price.version is not None:
        found[a.PRICE_VERSION] = price.version
    if price.flags:
        found[a.PRICE_FLAGS] = price.flags
    if price.computed_picousd is not None:
        found[a.COST_COMPUTED] = price.computed_picousd
    return found
