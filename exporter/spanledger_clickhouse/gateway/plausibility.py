"""What a span from the network cannot be: a call of another century, one that cost minus $999, row 2^62 of a process.

A wrong time would open a partition of its own, and a wrong cost or number would be believed by every sum and every gap
report. A time that cannot be right refuses the span, which is kept as a dead letter; a cost or a number is left out, and
the cost is computed again.
"""

from __future__ import annotations

import time
from typing import Final

from spanledger.semconv import attributes as a
from spanledger_clickhouse.rows.otlp import Span
from spanledger_clickhouse.rows.rows import COSTS, PRICE_LABELS

PAST_SECONDS: Final = 400 * 86400
"""A spool that was forgotten for a year is shipped; a clock that was never set is not."""
FUTURE_SECONDS: Final = 86400
MAX_COST_PICOUSD: Final = 10**16
"""$10,000 for one call: more than the largest context window of the most expensive model costs by two orders of magnitude."""
MAX_RECORDED_PICOUSD: Final = 10**19
"""$10 million for one process."""
MAX_SEQUENCE: Final = 2**40
"""A thousand calls a second for thirty years."""
COST_NAMES: Final = tuple(name for _, name in COSTS)
PRICES: Final = frozenset([name for _, name in COSTS] + [name for _, name in PRICE_LABELS])
NUMBERS: Final = (a.SEQUENCE, a.LOST_FROM, a.LOST_TO, a.LOST_ROWS)


def problem(span: Span) -> str:
    """Why a span is refused; "" if it is not."""
    now = time.time()
    for name, nanoseconds in (("start", span.start), ("end", span.end)):
        if not now - PAST_SECONDS <= nanoseconds / 1e9 <= now + FUTURE_SECONDS:
            return f"its {name} time is not within the last {PAST_SECONDS // 86400} days"
    if span.scope == a.MARKER_SCOPE:
        amounts = (a.COST_TOTAL, a.RECORDED_COST)
        if not all(_is_number(span, name, MAX_SEQUENCE) for name in NUMBERS) or not all(
            _is_number(span, name, MAX_RECORDED_PICOUSD) for name in amounts
        ):
            return "a number in this marker is impossible"
    return ""


def without_impossible(span: Span) -> Span:
    """The span without a price that no call has, and without a number that no process reaches."""
    left_out: set[str] = set()
    costs = map(span.attributes.get, COST_NAMES)
    if not all(cost is None or (type(cost) is int and 0 <= cost <= MAX_COST_PICOUSD) for cost in costs):
        left_out |= PRICES
    if not _is_number(span, a.SEQUENCE, MAX_SEQUENCE):
        left_out |= {a.SEQUENCE, a.PROCESS_ID}
    if not left_out:
        return span
    return span._replace(attributes={name: value for name, value in span.attributes.items() if name not in left_out})


def _is_number(span: Span, name: str, most: int) -> bool:
    """Whether an attribute is absent, or a number from 0 to `most`."""
    value = span.attributes.get(name)
    return value is None or (type(value) is int and 0 <= value <= most)
