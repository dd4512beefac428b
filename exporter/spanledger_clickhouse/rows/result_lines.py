"""Expands a span that holds the lines of a batch's results into one span for each line, priced."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

from spanledger.pricing.span_costs import billed_call, price_attributes
from spanledger.semconv import attributes as a
from spanledger.semconv.result_lines import attributes_of_lines
from spanledger_clickhouse.rows.otlp import Span


def expanded(span: Span) -> Iterator[Span]:
    """The calls of a span: itself, or one for each line of its results."""
    lines = span.attributes.get(a.RESULT_LINES)
    if lines is None or not span.scope.startswith(a.SCOPE_PREFIX):
        yield span
        return
    common = {name: value for name, value in span.attributes.items() if name != a.RESULT_LINES}
    completed_at = datetime.fromtimestamp(min(span.end, 4_000_000_000 * 10**9) / 1e9, UTC)
    found = list(attributes_of_lines(lines))
    if not found:  # not what we write: a row without usage, rather than none
        yield span._replace(attributes=common)
    for facts, usage in found:
        attributes = {**common, **facts}
        price = billed_call(attributes, usage)._replace(completed_at=completed_at).price()
        digest = hashlib.sha256(str(facts[a.JOB_ID]).encode()).hexdigest()
        yield span._replace(attributes={**attributes, **price_attributes(price)}, span_id=digest[:16])
