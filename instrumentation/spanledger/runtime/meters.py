"""OpenTelemetry meters of Spanledger's own counters, which any package may observe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from spanledger.runtime.version import VERSION


def counters(definitions: Mapping[str, tuple[str, Callable[[], int]]]) -> None:
    """Offer counters of rows: name -> (what is counted, the count so far)."""
    meter = metrics.get_meter("spanledger", VERSION)
    for name, (description, ask) in definitions.items():
        meter.create_observable_counter(name, [observing(ask)], "{row}", description)


def observing(ask: Callable[[], float]) -> Callable[[Any], Iterable[Observation]]:
    """A callback of OpenTelemetry's kind."""
    return lambda _: [Observation(ask())]
