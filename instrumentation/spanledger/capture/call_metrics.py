"""GenAI metrics of each call, with its cost, through the application's OpenTelemetry meter: whatever was sampled, every call counts.

A call only leaves what it used in a queue, which takes about a microsecond; when a reader collects, the callback of an observable
instrument empties the queue into the histograms and counters, before they are read (opentelemetry-sdk 1.45
`MeasurementConsumer.collect`). Where nothing collects, a full queue is emptied by its callers, two calls at a time.

Names are those of semantic-conventions-genai: by default as dashboards of 2026 know them, with
OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental those of its #374 and #521 (`gen_ai_latest_experimental/dup`: both). Cost
follows its proposal #443. The sum of the cost metric is that of the rows which this process has written: the ledger has fewer where
another process has seen the same batch or job, and other figures once a price is corrected.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from spanledger.pricing.span_costs import cost_attributes
from spanledger.runtime import settings
from spanledger.runtime.guard import quietly
from spanledger.runtime.version import VERSION
from spanledger.semconv import attributes as a
from spanledger.semconv import result_lines
from spanledger.semconv.dimensions import DIMENSIONS
from spanledger.semconv.usage import Usage

LABELS: Final = (
    a.OPERATION, a.PROVIDER, a.REQUEST_MODEL, a.RESPONSE_MODEL, a.SERVER_ADDRESS, a.SERVER_PORT, a.ERROR_TYPE,
)  # fmt: skip
"""Attributes of a call that its metrics have."""
COST_LABELS: Final = (a.COST_CURRENCY, a.COST_SOURCE)
"""Those that its cost has beside them."""
MAX_SERIES: Final = 2000
"""Combinations of labels; all labels of a call of a further one are `other`."""
MAX_WAITING: Final = 4096
"""Calls in the queue, beyond which each call takes some out: where nothing collects, nothing piles up."""
MAX_UNREAD: Final = 64
"""The same where no reader is configured, and of spans with results of a batch, each of which may be 100 kB."""
MAX_JOBS: Final = 100_000
"""Results of batches that are remembered, so that a file which is read again is not counted again."""
DRAINED_AT_ONCE: Final = 2
"""Calls that one more call takes out of a full queue, so that none of them waits for the others' figures."""
OTHER: Final = "other"

TOKEN_BUCKETS: Final = [4**n for n in range(14)]
SECOND_BUCKETS: Final = [0.01 * 2**n for n in range(14)]
FIRST_CHUNK_BUCKETS: Final = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
]  # fmt: skip
CHUNK_BUCKETS: Final = FIRST_CHUNK_BUCKETS
COST_BUCKETS: Final = [10.0**n * m for n in range(-6, 2) for m in (1, 2.5, 5)]
"""USD, from a millionth."""

FORMER, LATEST = "former", "latest"


def families() -> frozenset[str]:
    """Which names are emitted, by OTEL_SEMCONV_STABILITY_OPT_IN (a list with commas)."""
    words = {word.strip() for word in os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")}
    if "gen_ai_latest_experimental/dup" in words:
        return frozenset({FORMER, LATEST})
    return frozenset({LATEST if "gen_ai_latest_experimental" in words else FORMER})


def optional_labels() -> tuple[str, ...]:
    """The attributes of the dimensions that SPANLEDGER_METRIC_LABELS names."""
    return tuple(DIMENSIONS[name].attribute for name in settings.choices("metric_labels"))


_Waiting = tuple[tuple[Any, ...], Usage | None, int | None, float | None, float | None, Sequence[float]]
"""Labels, usage, cost in picodollars, seconds, seconds to the first chunk, seconds between chunks."""


class CallMetrics:
    """The metrics of this process's calls."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._waiting_lines: deque[dict[str, Any]] = deque()
        self._labels = (*LABELS, *COST_LABELS, *optional_labels())
        self._series: dict[tuple[Any, ...], tuple[dict[str, Any], dict[str, Any]]] = {}
        self._counted_jobs: OrderedDict[int, None] = OrderedDict()
        self._is_read = False
        self._families = families()
        meter = metrics.get_meter("spanledger", VERSION)
        meter.create_observable_gauge(
            "spanledger.metrics.series", [self._collect], "{series}", "Combinations of labels of calls"
        )
        self._cost = meter.create_histogram(
            "gen_ai.client.operation.cost", "{currency_unit}", "Cost of a GenAI operation",
            explicit_bucket_boundaries_advisory=COST_BUCKETS,
        )  # fmt: skip
        if FORMER in self._families:
            self._create_former(meter)
        if LATEST in self._families:
            self._create_latest(meter)

    def _create_former(self, meter: metrics.Meter) -> None:
        create = meter.create_histogram
        self._tokens = create("gen_ai.client.token.usage", "{token}", "Tokens of an operation, by type", explicit_bucket_boundaries_advisory=TOKEN_BUCKETS)  # fmt: skip
        self._duration = create("gen_ai.client.operation.duration", "s", "Duration of a GenAI operation", explicit_bucket_boundaries_advisory=SECOND_BUCKETS)  # fmt: skip
        self._first_chunk = create("gen_ai.client.operation.time_to_first_chunk", "s", "Time to the first chunk of a stream", explicit_bucket_boundaries_advisory=FIRST_CHUNK_BUCKETS)  # fmt: skip

        self._per_chunk = create("gen_ai.client.operation.time_per_output_chunk", "s", "Time between the chunks of a stream", explicit_bucket_boundaries_advisory=CHUNK_BUCKETS)  # fmt: skip

    def _create_latest(self, meter: metrics.Meter) -> None:
        name, create = "gen_ai.client.inference", meter.create_histogram
        self._latest_tokens = {
            direction: create(f"{name}.operation.{direction}_tokens", "{token}", f"Tokens of {direction} of an operation", explicit_bucket_boundaries_advisory=TOKEN_BUCKETS)
            for direction in ("input", "output")
        }  # fmt: skip
        self._latest_duration = create(f"{name}.duration", "s", "Duration of an inference", explicit_bucket_boundaries_advisory=SECOND_BUCKETS)  # fmt: skip
        self._latest_first_chunk = create(f"{name}.time_to_first_chunk", "s", "Time to the first chunk of a stream", explicit_bucket_boundaries_advisory=FIRST_CHUNK_BUCKETS)  # fmt: skip
        self._latest_per_chunk = create(f"{name}.time_per_output_chunk", "s", "Time between the chunks of a stream", explicit_bucket_boundaries_advisory=CHUNK_BUCKETS)  # fmt: skip
        self._counters = {
            kind: meter.create_counter(f"{name}.usage.{kind}", "{token}", "Tokens, parts included in their total")
            for kind in ("input_tokens", "output_tokens", "cache_read.input_tokens", "cache_write.input_tokens", "reasoning.output_tokens")
        }  # fmt: skip

    def record(
        self,
        facts: Mapping[str, Any],
        usage: Usage | None,
        cost_picousd: int | None,
        seconds: float | None,
        chunk_gaps: Sequence[float] = (),
    ) -> None:
        """Count a call.

        Args:
            facts: its attributes, priced.
            usage: its meters; None if they are not known.
            cost_picousd: what its row adds to the ledger; None if it has no price.
            seconds: how long it took; None for a row that is no request (a result of a job, a charge).
            chunk_gaps: seconds between the chunks of a stream.
        """
        get = facts.get
        series = tuple([get(name) for name in self._labels])
        self._waiting.append((series, usage, cost_picousd, seconds, get(a.RESPONSE_TIME_TO_FIRST_CHUNK), chunk_gaps))
        if len(self._waiting) >= (MAX_WAITING if self._is_read else MAX_UNREAD):
            self._is_read = _has_reader()
            if not self._is_read or len(self._waiting) >= MAX_WAITING:
                self.drain(DRAINED_AT_ONCE)

    def record_lines(self, attributes: dict[str, Any]) -> None:
        """Count the results of a batch, which stand in one span: they are priced when they are drained."""
        self._waiting_lines.append(attributes)
        if len(self._waiting_lines) > MAX_UNREAD:
            self._put_lines(self._waiting_lines.popleft())

    def drain(self, most: int = MAX_WAITING) -> None:
        """Put what waits into the instruments: so many calls, the oldest first."""
        for _ in range(most):
            try:
                call = self._waiting.popleft()
            except IndexError:
                return
            self._put(*call)

    def _put_lines(self, attributes: dict[str, Any]) -> None:
        for line, usage in result_lines.attributes_of_lines(attributes[a.RESULT_LINES]):
            job = hash((attributes.get(a.PROVIDER), line[a.JOB_ID]))
            if job in self._counted_jobs:  # a file of results that was read again
                continue
            self._counted_jobs[job] = None
            if len(self._counted_jobs) > MAX_JOBS:
                self._counted_jobs.popitem(last=False)
            facts = {**attributes, **line}
            facts |= cost_attributes(facts, usage)
            self._put(tuple([facts.get(name) for name in self._labels]), usage, facts.get(a.COST_TOTAL), None, None, ())

    def _put(
        self,
        series: tuple[Any, ...],
        usage: Usage | None,
        cost: int | None,
        seconds: float | None,
        first_chunk: float | None,
        chunk_gaps: Sequence[float],
    ) -> None:
        labels, cost_labels = self._series.get(series) or self._new_series(series)
        if cost is not None and cost >= 0:  # instruments of OpenTelemetry take nothing back
            self._cost.record(cost / 1e12, cost_labels)
        if FORMER in self._families:
            if usage is not None:
                self._tokens.record(usage.total_input, {**labels, a.TOKEN_TYPE: "input"})
                self._tokens.record(usage.total_output, {**labels, a.TOKEN_TYPE: "output"})
            if seconds is not None:
                self._duration.record(seconds, labels)
            if first_chunk is not None:
                self._first_chunk.record(first_chunk, labels)
            for gap in chunk_gaps:
                self._per_chunk.record(gap, labels)
        if LATEST in self._families:
            self._record_latest(labels, usage, seconds, first_chunk, chunk_gaps)

    def _record_latest(
        self,
        labels: dict[str, Any],
        usage: Usage | None,
        seconds: float | None,
        first_chunk: float | None,
        chunk_gaps: Sequence[float],
    ) -> None:
        if usage is not None:
            counts = usage.inclusive()
            for kind, counter in self._counters.items():
                if counts[kind]:
                    counter.add(counts[kind], labels)
            for direction, histogram in self._latest_tokens.items():
                histogram.record(counts[f"{direction}_tokens"], labels)
        if seconds is not None:
            self._latest_duration.record(seconds, labels)
        if first_chunk is not None:
            self._latest_first_chunk.record(first_chunk, labels)
        for gap in chunk_gaps:
            self._latest_per_chunk.record(gap, labels)

    def _new_series(self, series: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        """(labels, labels of the cost) of a combination that has not been seen."""
        labels = {name: value for name, value in zip(self._labels, series, strict=True) if value is not None}
        if len(self._series) >= MAX_SERIES:
            labels = {
                name: value if name in COST_LABELS else OTHER for name, value in labels.items() if name != a.SERVER_PORT
            }
        costs = {name: labels.pop(name) for name in COST_LABELS if name in labels}
        pair = labels, {**labels, **costs}
        if len(self._series) < MAX_SERIES:
            self._series[series] = pair
        return pair

    def _collect(self, _: CallbackOptions) -> Iterable[Observation]:
        with quietly("collecting metrics"):
            self.drain()
            while self._waiting_lines:
                self._put_lines(self._waiting_lines.popleft())
        return (Observation(len(self._series)),)

    def after_fork(self) -> None:
        """In a forked child: what the parent's calls used is the parent's to report."""
        self._waiting.clear()
        self._waiting_lines.clear()


def _has_reader() -> bool:
    """Whether the application's MeterProvider is read, as far as one can see; of a provider that is not the SDK's it is assumed."""
    provider: Any = metrics.get_meter_provider()
    if isinstance(provider, metrics.NoOpMeterProvider) or type(provider).__name__ == "_ProxyMeterProvider":
        return False
    consumer = getattr(provider, "_measurement_consumer", None)  # opentelemetry-sdk 1.38 to 1.45
    return consumer is None or bool(getattr(consumer, "_reader_storages", True))
