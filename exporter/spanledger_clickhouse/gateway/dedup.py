"""Which of the spans that come in are calls that cost something, and the rows they make.

Spans of Spanledger's own scopes are rows as they are. Of other instrumentors' calls the one nearest the wire counts
(what wraps it repeats its usage), and none that a row with the same provider and response id stands for already: seen
in this batch, remembered, or found in the ledger. What is no call is counted, and dropped.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple

from spanledger.semconv import attributes as a
from spanledger_clickhouse.gateway import foreign_spans
from spanledger_clickhouse.prices import repricing
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.rows.otlp import Span, text
from spanledger_clickhouse.rows.rows import COLUMNS, COSTS, Contents, Row, event, row

Place = tuple[str, str]
"""(trace id, span id)."""
Trace = tuple[str, str]
"""(tenant that the sender is known to be, trace id)."""
Answered = tuple[str, str, str]
"""(tenant, provider, response id)."""

REMEMBERED: Final = 500_000
"""Spans whose parents are remembered: a call may come in another batch than the span that wraps it."""
RESPONSES: Final = 200_000
LONG_ENOUGH: Final = range(16, 257)
"""Characters of a response id that tells one answer from all others; servers of one's own count to a thousand."""
STATUS: Final = list(COLUMNS).index("price_status")


class Batch(NamedTuple):
    """Spans of one sender."""

    tenant: str
    """The tenant that the sender is known to be, whatever its spans say; '' where they may say."""
    spans: Sequence[Span]


class Entry(NamedTuple):
    """A span that is kept, with its row or marker."""

    batch: int
    """The number of its batch."""
    span: Span
    contents: Contents
    tenant: str = ""
    """The one that its sender is known to be."""


@dataclass
class Sorted:
    """What batches hold."""

    entries: list[Entry] = field(default_factory=list[Entry])
    unreadable: list[tuple[int, Span, str]] = field(default_factory=list[tuple[int, Span, str]])
    """Spans of which no row could be made: the number of the batch, and why."""
    dropped: Counter[str] = field(default_factory=Counter[str])
    """Why spans are no rows: not_a_call, wrapper (of a call), same_response."""


class Sorter:
    """Tells calls from what wraps them, with a memory bounded in spans and responses. Senders of one tenant cannot
    touch what those of another have sent."""

    def __init__(self, lookup: Callable[[Collection[str]], dict[Answered, Place]] = lambda _: {}) -> None:
        """`known`: asks the ledger which of some response ids have a row."""
        self._known = lookup
        self._parents: OrderedDict[Trace, dict[str, str]] = OrderedDict()
        self._spans = 0
        self._wrapping: dict[Trace, set[str]] = {}
        self._responses: OrderedDict[Answered, Place] = OrderedDict()

    def sort(self, batches: Sequence[Batch]) -> Sorted:
        """The rows and markers of some batches, in any order. What is committed of them, `learn` is to be told.

        Raises:
            DatabaseError: the ledger could not be asked for what it has.
        """
        classification = Sorted()
        own: list[tuple[int, str, Span]] = []
        foreign: list[tuple[int, str, Span]] = []
        for number, (tenant, spans) in enumerate(batches):
            for span in spans:
                self._remember(tenant, span)
                if span.scope == a.MARKER_SCOPE:
                    classification.entries.append(Entry(number, span, Contents([], [event(span)])))
                elif span.scope.startswith(a.SCOPE_PREFIX):
                    own.append((number, tenant, _of(tenant, span)))
                elif (call := foreign_spans.call(span)) is not None:
                    foreign.append((number, tenant, _of(tenant, call)))
                else:
                    classification.dropped["not_a_call"] += 1
        wrappers: dict[Trace, set[str]] = {}
        for _, tenant, span in (*own, *foreign):
            self._wrap(wrappers, tenant, span)
        batch_responses: dict[Answered, Place] = {}
        for number, tenant, span in own:
            if (key := answered(span)) is not None:
                batch_responses[key] = (span.trace_id, span.span_id)
            _keep(classification, number, tenant, span)
        if foreign:
            self._sort_foreign(foreign, wrappers, batch_responses, classification)
        self._forget()
        return classification

    def _sort_foreign(
        self,
        foreign: list[tuple[int, str, Span]],
        wrappers: dict[Trace, set[str]],
        batch_responses: dict[Answered, Place],
        classification: Sorted,
    ) -> None:
        response_ids = {
            key[2]
            for _, _, span in foreign
            if (key := answered(span)) and key not in batch_responses and key not in self._responses
        }
        committed = self._known(response_ids) if response_ids else {}
        for number, tenant, span in sorted(foreign, key=lambda entry: -entry[2].start):  # the inner one began later
            key, place = answered(span), (span.trace_id, span.span_id)
            trace = (tenant, span.trace_id)
            if span.span_id in wrappers.get(trace, ()) or span.span_id in self._wrapping.get(trace, ()):
                classification.dropped["wrapper"] += 1
            elif key and batch_responses.get(key, self._responses.get(key, committed.get(key, place))) != place:
                classification.dropped["same_response"] += 1
            else:
                if key:
                    batch_responses[key] = place
                _keep(classification, number, tenant, span)

    def learn(self, entries: Sequence[Entry]) -> None:
        """Remember calls that are committed: what wraps them, or tells of the same answer, is none any more."""
        for entry in entries:
            self._wrap(self._wrapping, entry.tenant, entry.span, remembered=True)
            key = answered(entry.span)
            if key is not None:
                self._responses[key] = (entry.span.trace_id, entry.span.span_id)
                if len(self._responses) > RESPONSES:
                    self._responses.popitem(last=False)

    def _remember(self, tenant: str, span: Span) -> None:
        if len(span.trace_id) != 32 or len(span.span_id) != 16 or len(span.parent_span_id) > 16:
            return  # no ids of OpenTelemetry's
        parents = self._parents.setdefault((tenant, span.trace_id), {})
        self._spans += span.span_id not in parents
        parents[span.span_id] = span.parent_span_id

    def _forget(self) -> None:
        """The oldest traces, where more is remembered than may be."""
        while self._spans > REMEMBERED:
            trace, parents = self._parents.popitem(last=False)
            self._spans -= len(parents)
            self._wrapping.pop(trace, None)

    def _wrap(self, wrappers: dict[Trace, set[str]], tenant: str, call: Span, *, remembered: bool = False) -> None:
        """Mark what is above a call; `remembered`: of traces that are still remembered."""
        trace = (tenant, call.trace_id)
        if remembered and trace not in self._parents:
            return
        parents = self._parents.get(trace, {})
        ancestors = wrappers.setdefault(trace, set())
        current = call.parent_span_id
        while 0 < len(current) <= 16 and current not in ancestors and current != call.span_id:
            ancestors.add(current)
            current = parents.get(current, "")


def _of(tenant: str, span: Span) -> Span:
    """A span as its tenant's, where the sender is known to be one's."""
    return span._replace(attributes={**span.attributes, a.TENANT_ID: tenant}) if tenant else span


def _keep(classification: Sorted, number: int, tenant: str, span: Span) -> None:
    try:
        priced_row = priced(row(span, "otlp"))
    except Exception as error:  # noqa: BLE001 - one span must not take its neighbours with it
        classification.unreadable.append((number, span, f"{type(error).__name__} while reading it"))
    else:
        classification.entries.append(Entry(number, span, Contents([priced_row], []), tenant))


def answered(span: Span) -> Answered | None:
    """Which answer a call is about; None where it does not say, or not so that it tells it from others."""
    response_id = text(span.attributes.get(a.RESPONSE_ID))
    if len(response_id) not in LONG_ENOUGH:
        return None
    return text(span.attributes.get(a.TENANT_ID)), text(span.attributes.get(a.PROVIDER)), response_id


def line(entry: Entry) -> bytes:
    """A call as a line of a spool, its price with it: read again, it gives the row that it gave."""
    if not entry.contents.rows:
        return otlp.line(entry.span)
    columns = dict(zip(COLUMNS, entry.contents.rows[0], strict=True))
    attributes = dict(entry.span.attributes)
    for column, name in COSTS:
        cost = columns[column]
        if isinstance(cost, Decimal):
            attributes[name] = int(cost.scaleb(12))
    attributes |= {
        a.PRICE_STATUS: text(columns["price_status"]),
        a.PRICE_KEY: text(columns["price_key"]),
        a.PRICE_SOURCE: text(columns["price_source"]),
        a.PRICE_VERSION: text(columns["price_version"]),
    }
    ours = entry.span.scope.startswith(a.SCOPE_PREFIX)
    scope = entry.span.scope if ours else f"{a.SCOPE_PREFIX}foreign.{entry.span.scope}"
    return otlp.line(entry.span._replace(scope=scope, attributes=attributes))


def priced(call_row: Row) -> Row:
    """A row with a price: as it is where its process gave it one (or said why not), else by the table in force here."""
    if call_row[STATUS]:
        return call_row
    correction = repricing.corrected(dict(zip(COLUMNS, call_row, strict=True)))
    return correction.row if correction is not None else call_row
