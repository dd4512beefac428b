"""What Spanledger says of itself, through the application's own OpenTelemetry meter.

`spanledger.rows.recorded`, `.spooled` and `.refused` are here; the shipper adds `spanledger.rows.shipped`, `.dead`
and `spanledger.spool.oldest_unshipped`. All are asked for when metrics are read: a call pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from spanledger.spool import Spool
from spanledger.version import VERSION


def counters(found: Mapping[str, tuple[str, Callable[[], int]]]) -> None:
    """Offer counters of rows: name -> (what is counted, the count so far)."""
    meter = metrics.get_meter("spanledger", VERSION)
    for name, (description, ask) in found.items():
        meter.create_observable_counter(name, [observing(ask)], "{row}", description)


def observing(ask: Callable[[], float]) -> Callable[[Any], Iterable[Observation]]:
    """A callback of OpenTelemetry's kind."""
    return lambda _: [Observation(ask())]


def observe(spool: Spool) -> None:
    """Offer the counters of a spool."""
    counters(
        {
            "spanledger.rows.recorded": ("Rows made of LLM calls", lambda: spool.recorded),
            "spanledger.rows.spooled": ("Rows written to the spool", lambda: spool.written),
            "spanledger.rows.refused": ("Rows lost because the spool had no room", lambda: spool.refused),
        }
    )
