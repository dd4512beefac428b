"""OpenTelemetry meters of Spanledger's own counters, which any package may observe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import Observation

from spanledger.runtime.version import VERSION


def register_row_counters(definitions: Mapping[str, tuple[str, Callable[[], int]]]) -> None:
    """Register observable row counters: name -> (description, callback that returns the count so far)."""
    meter = metrics.get_meter("spanledger", VERSION)
    for name, (description, ask) in definitions.items():
        meter.create_observable_counter(name, [observation_callback(ask)], "{row}", description)


def observation_callback(ask: Callable[[], float]) -> Callable[[Any], Iterable[Observation]]:
    """An OpenTelemetry observation callback that reports `ask()`."""
    return lambda _: [Observation(ask())]
