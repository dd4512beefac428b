"""Deduplicates incoming spans: keeps billed leaf LLM calls, drops wrappers and repeated responses.

Spans of Spanledger's own scopes become rows unchanged. Of other instrumentors' calls only the innermost span counts
(wrapper spans repeat its usage), unless a row with the same provider and response id already exists: in this batch, in
memory, or in the ledger. Spans that are not calls are counted and dropped.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple, cast

from spanledger.pricing import Price
from spanledger.pricing.price import ERROR
from spanledger.runtime.guard import quietly
from spanledger.semconv import attributes as a
from spanledger_clickhouse.gateway import foreign_spans, plausibility
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.rows.otlp import Span, Value, text
from spanledger_clickhouse.rows.result_lines import expanded
from spanledger_clickhouse.rows.rows import (
    COLUMNS,
    COSTS,
    PRICE_LABELS,
    Contents,
    Row,
    billed_call,
    event,
    is_job,
    is_outcome,
    job,
    outcome,
    price_columns,
    row,
)

SpanKey = tuple[str, str]
"""(trace id, span id)."""
TraceKey = tuple[str, str]
"""(authenticated tenant of the sender, trace id)."""
ResponseKey = tuple[str, str, str]
"""(tenant, provider, response id)."""

ResponseLookup = Callable[[Collection[str]], dict[ResponseKey, SpanKey]]
"""Response ids -> those that have a row, with its span."""

REMEMBERED: Final = 500_000
"""Spans whose parents are cached: a call may arrive in another batch than its wrapper span."""
MAX_RESPONSES: Final = 200_000
RESPONSE_ID_LENGTHS: Final = range(16, 257)
"""Length of a response id that is globally unique; self-hosted servers use short counters."""
PRICE_STATUS_INDEX: Final = list(COLUMNS).index("price_status")


class Batch(NamedTuple):
    """Spans of one sender."""

    tenant: str
    """The authenticated tenant of the sender, which overrides that of its spans; '' if the spans decide."""
    spans: Sequence[Span]


class Entry(NamedTuple):
    """An accepted span with its row or marker."""

    batch: int
    """Index of its batch."""
    span: Span
    contents: Contents
    tenant: str = ""
    """The authenticated tenant of its sender."""


@dataclass
class Classification:
    """Spans of some batches by class: accepted, unreadable, dropped."""

    entries: list[Entry] = field(default_factory=list[Entry])
    unreadable: list[tuple[int, Span, str]] = field(default_factory=list[tuple[int, Span, str]])
    """Spans that could not be converted to a row: (index of the batch, span, reason)."""
    dropped: Counter[str] = field(default_factory=Counter[str])
    """Dropped spans by reason: not_a_call, wrapper (of a call), same_response."""


class SpanDeduplicator:
    """Separates LLM calls from wrapper spans, with memory bounded in spans and responses. Tenants are isolated
    from each other."""

    def __init__(self) -> None:
        self.share = 1.0
        """Share of REMEMBERED and MAX_RESPONSES that it may use, where there are several."""
        self._parents: OrderedDict[TraceKey, dict[str, str]] = OrderedDict()
        self._spans = 0
        self._wrappers: dict[TraceKey, set[str]] = {}
        self._responses: OrderedDict[ResponseKey, SpanKey] = OrderedDict()

    def classify(self, batches: Sequence[Batch], lookup: ResponseLookup = lambda _: {}) -> Classification:
        """Classify the spans of some batches, in any order. Pass committed entries to `remember_committed`.

        `lookup` queries the ledger for the response ids that have a row.

        Raises:
            DatabaseError: the ledger could not be queried for response ids.
        """
        classification = Classification()
        own: list[tuple[int, str, Span]] = []
        foreign: list[tuple[int, str, Span]] = []
        for number, (tenant, spans) in enumerate(batches):
            for span in (call for each in spans for call in expanded(each)):
                self._remember_parent(tenant, span)
                call = _plausible_call(number, span, classification)
                if call is not None:
                    kind = own if span.scope.startswith(a.SCOPE_PREFIX) else foreign
                    kind.append((number, tenant, _with_tenant(tenant, call)))
        wrappers: dict[TraceKey, set[str]] = {}
        for _, tenant, span in (*own, *foreign):
            self._mark_ancestors(wrappers, tenant, span)
        batch_responses: dict[ResponseKey, SpanKey] = {}
        for number, tenant, span in own:
            if (key := response_key(span)) is not None:
                batch_responses[key] = (span.trace_id, span.span_id)
            _add_entry(classification, number, tenant, span)
        if foreign:
            self._classify_foreign(foreign, wrappers, batch_responses, classification, lookup)
        self._evict()
        return classification

    def _classify_foreign(
        self,
        foreign: list[tuple[int, str, Span]],
        wrappers: dict[TraceKey, set[str]],
        batch_responses: dict[ResponseKey, SpanKey],
        classification: Classification,
        lookup: ResponseLookup,
    ) -> None:
        response_ids = {
            key[2]
            for _, _, span in foreign
            if (key := response_key(span)) and key not in batch_responses and key not in self._responses
        }
        committed = lookup(response_ids) if response_ids else {}
        for number, tenant, span in sorted(foreign, key=lambda entry: -entry[2].start):  # the inner span started later
            key, place = response_key(span), (span.trace_id, span.span_id)
            trace = (tenant, span.trace_id)
            if span.span_id in wrappers.get(trace, ()) or span.span_id in self._wrappers.get(trace, ()):
                classification.dropped["wrapper"] += 1
            elif key and batch_responses.get(key, self._responses.get(key, committed.get(key, place))) != place:
                classification.dropped["same_response"] += 1
            else:
                if key:
                    batch_responses[key] = place
                _add_entry(classification, number, tenant, span)

    def remember_committed(self, entries: Sequence[Entry]) -> None:
        """Remember committed calls: their wrapper spans and repeated responses are dropped from now on."""
        for entry in entries:
            self._mark_ancestors(self._wrappers, entry.tenant, entry.span, remembered=True)
            key = response_key(entry.span)
            if key is not None:
                self._responses[key] = (entry.span.trace_id, entry.span.span_id)
                while len(self._responses) > MAX_RESPONSES * self.share:
                    self._responses.popitem(last=False)

    def _remember_parent(self, tenant: str, span: Span) -> None:
        if len(span.trace_id) != 32 or len(span.span_id) != 16 or len(span.parent_span_id) > 16:
            return  # not OpenTelemetry ids
        parents = self._parents.setdefault((tenant, span.trace_id), {})
        self._spans += span.span_id not in parents
        parents[span.span_id] = span.parent_span_id

    def _evict(self) -> None:
        """Evict the oldest traces beyond the memory limit."""
        while self._spans > REMEMBERED * self.share:
            trace, parents = self._parents.popitem(last=False)
            self._spans -= len(parents)
            self._wrappers.pop(trace, None)

    def _mark_ancestors(
        self, wrappers: dict[TraceKey, set[str]], tenant: str, call: Span, *, remembered: bool = False
    ) -> None:
        """Mark the ancestors of a call as wrappers; `remembered`: only in traces that are still cached."""
        trace = (tenant, call.trace_id)
        if remembered and trace not in self._parents:
            return
        parents = self._parents.get(trace, {})
        ancestors = wrappers.setdefault(trace, set())
        current = call.parent_span_id
        while 0 < len(current) <= 16 and current not in ancestors and current != call.span_id:
            ancestors.add(current)
            current = parents.get(current, "")


def _plausible_call(number: int, span: Span, classification: Classification) -> Span | None:
    """The call that a span of batch `number` is; None if it is none, or a marker, or refused, which is classified."""
    ours = span.scope.startswith(a.SCOPE_PREFIX)
    call = span if ours else foreign_spans.normalized(span)
    if call is None:
        classification.dropped["not_a_call"] += 1
    elif problem := plausibility.problem(span):
        classification.unreadable.append((number, span, problem))
    elif span.scope == a.MARKER_SCOPE:
        classification.entries.append(Entry(number, span, Contents([], [event(span)])))
    else:
        return plausibility.without_impossible(call)
    return None


def _with_tenant(tenant: str, span: Span) -> Span:
    """The span with the authenticated tenant of its sender, if any."""
    return span._replace(attributes={**span.attributes, a.TENANT_ID: tenant}) if tenant else span


def _add_entry(classification: Classification, number: int, tenant: str, span: Span) -> None:
    try:
        if is_job(span):
            classification.entries.append(Entry(number, span, Contents([], [], [job(span)]), tenant))
            return
        if is_outcome(span):
            classification.entries.append(Entry(number, span, Contents([], [], [], [outcome(span)]), tenant))
            return
        priced_row = with_price(row(span, "otlp"))
    except Exception as error:  # noqa: BLE001 - one bad span must not fail the others of the batch
        classification.unreadable.append((number, span, f"{type(error).__name__} while reading it"))
    else:
        classification.entries.append(Entry(number, span, Contents([priced_row], []), tenant))


def response_key(span: Span) -> ResponseKey | None:
    """Deduplication key of a call's response; None without a response id that is globally unique."""
    response_id = text(span.attributes.get(a.RESPONSE_ID))
    if len(response_id) not in RESPONSE_ID_LENGTHS:
        return None
    return text(span.attributes.get(a.TENANT_ID)), text(span.attributes.get(a.PROVIDER)), response_id


def spool_line(entry: Entry) -> bytes:
    """A call as a spool line, price included: reading it again gives the same row."""
    if not entry.contents.rows:
        return otlp.to_json_line(otlp.compact(entry.span))
    columns = dict(zip(COLUMNS, entry.contents.rows[0], strict=True))
    attributes = dict(entry.span.attributes)
    for column, name in COSTS:
        cost = columns[column]
        if isinstance(cost, Decimal):
            attributes[name] = int(cost.scaleb(12))
    attributes |= {name: cast("Value", columns[column]) for column, name in PRICE_LABELS}
    ours = entry.span.scope.startswith(a.SCOPE_PREFIX)
    scope = entry.span.scope if ours else f"{a.SCOPE_PREFIX}foreign.{entry.span.scope}"
    return otlp.to_json_line(otlp.compact(entry.span._replace(scope=scope, attributes=attributes)))


def with_price(call_row: Row) -> Row:
    """A row with a price: unchanged if its process priced it or gave a reason, else from the local price table."""
    if call_row[PRICE_STATUS_INDEX]:
        return call_row
    values = dict(zip(COLUMNS, call_row, strict=True))
    price = Price(ERROR)
    with quietly("pricing a row"):
        price = billed_call(values).price()
    return tuple({**values, **price_columns(price)}.values())
