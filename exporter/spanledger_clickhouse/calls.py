"""Which of the spans that come in are calls that cost something, and the rows they make.

Spans of Spanledger's own scopes are rows as they are. Of other instrumentors' calls the one nearest the wire counts
(what wraps it repeats its usage), and none that a row with the same provider and response id stands for already: seen
in this batch, remembered, or found in the ledger. What is no call is counted, and dropped.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from spanledger import attributes as a
from spanledger_clickhouse import foreign, repricing
from spanledger_clickhouse.otlp import Span, text
from spanledger_clickhouse.rows import COLUMNS, Contents, Row, event, row

Place = tuple[str, str]
"""(trace id, span id)."""
Response = tuple[str, str]
"""(provider, response id)."""

TRACES: Final = 50_000
"""Traces whose spans are remembered: a call may come in another batch than the span that wraps it."""
SPANS: Final = 10_000
"""Spans of one trace that are remembered."""
RESPONSES: Final = 200_000
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


@dataclass
class Sorted:
    """What batches hold."""

    entries: list[Entry] = field(default_factory=list[Entry])
    dropped: Counter[str] = field(default_factory=Counter[str])
    """Why spans are no rows: not_a_call, wrapper (of a call), same_response."""


class Sorter:
    """Tells calls from what wraps them, with a memory bounded in traces and responses. Senders of one tenant cannot
    touch what those of another have sent."""

    def __init__(self, known: Callable[[Collection[str]], dict[Response, Place]] = lambda _: {}) -> None:
        """`known`: asks the ledger which of some response ids have a row."""
        self._known = known
        self._parents: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._wrapping: dict[str, set[str]] = {}
        self._responses: OrderedDict[tuple[str, Response], Place] = OrderedDict()

    def sort(self, batches: Sequence[Batch]) -> Sorted:
        """The rows and markers of some batches, in any order.

        Raises:
            DatabaseError: the ledger could not be asked for what it has.
        """
        done = Sorted()
        own: list[tuple[int, str, Span]] = []
        others: list[tuple[int, str, Span]] = []
        for number, (tenant, spans) in enumerate(batches):
            for span in spans:
                self._remember(tenant, span)
                if span.scope == a.MARKER_SCOPE:
                    done.entries.append(Entry(number, span, Contents([], [event(span)])))
                elif span.scope.startswith(a.SCOPE_PREFIX):
                    own.append((number, tenant, span))
                elif (call := foreign.call(span)) is not None:
                    others.append((number, tenant, call))
                else:
                    done.dropped["not_a_call"] += 1
        for _, tenant, span in (*own, *others):
            self._wrap(tenant, span)
        for number, tenant, span in own:
            self._answered(tenant, span)
            self._keep(done, number, tenant, span)
        if others:
            self._sort_foreign(others, done)
        return done

    def _sort_foreign(self, others: list[tuple[int, str, Span]], done: Sorted) -> None:
        asked = {
            found[1]
            for _, tenant, span in others
            if (found := response(span)) and (tenant, found) not in self._responses
        }
        known = self._known(asked) if asked else {}
        for number, tenant, span in sorted(others, key=lambda entry: -entry[2].start):  # the inner one began later
            found, place = response(span), (span.trace_id, span.span_id)
            if span.span_id in self._wrapping.get(tenant + span.trace_id, ()):
                done.dropped["wrapper"] += 1
            elif found and self._responses.get((tenant, found), known.get(found, place)) != place:
                done.dropped["same_response"] += 1
            else:
                self._answered(tenant, span)
                self._keep(done, number, tenant, span)

    @staticmethod
    def _keep(done: Sorted, number: int, tenant: str, span: Span) -> None:
        if tenant:
            span = span._replace(attributes={**span.attributes, a.TENANT_ID: tenant})
        done.entries.append(Entry(number, span, Contents([priced(row(span, "otlp"))], [])))

    def _remember(self, tenant: str, span: Span) -> None:
        trace = tenant + span.trace_id
        parents = self._parents.get(trace)
        if parents is None:
            parents = self._parents[trace] = {}
            if len(self._parents) > TRACES:
                gone, _ = self._parents.popitem(last=False)
                self._wrapping.pop(gone, None)
        if len(parents) < SPANS:
            parents[span.span_id] = span.parent_span_id

    def _wrap(self, tenant: str, call: Span) -> None:
        """Mark what is above a call."""
        trace = tenant + call.trace_id
        parents = self._parents.get(trace, {})
        above = self._wrapping.setdefault(trace, set())
        current = call.parent_span_id
        while current and current not in above and current != call.span_id and len(above) < SPANS:
            above.add(current)
            current = parents.get(current, "")

    def _answered(self, tenant: str, span: Span) -> None:
        found = response(span)
        if found is not None:
            self._responses[tenant, found] = (span.trace_id, span.span_id)
            if len(self._responses) > RESPONSES:
                self._responses.popitem(last=False)


def response(span: Span) -> Response | None:
    """Which answer of which provider a call is about; None where it does not say."""
    found = text(span.attributes.get(a.RESPONSE_ID))
    return (text(span.attributes.get(a.PROVIDER)), found) if found else None


def priced(made: Row) -> Row:
    """A row with a price: as it is where its process gave it one (or said why not), else by the table in force here."""
    if made[STATUS]:
        return made
    correction = repricing.corrected(dict(zip(COLUMNS, made, strict=True)))
    return correction.row if correction is not None else made
