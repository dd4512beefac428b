"""What the GenAI metrics add to a call: microseconds of CPU on its way, and when a reader collects.

    python benchmarks/bench_metrics.py

Beside it: what it would be if each call emptied the queue itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from spanledger.capture.call_metrics import MAX_WAITING, CallMetrics
from spanledger.semconv import attributes as a
from spanledger.semconv.usage import Usage

CALLS, ROUNDS = MAX_WAITING - 1, 7
FACTS = {
    a.OPERATION: "chat", a.PROVIDER: "openai", a.REQUEST_MODEL: "gpt-4.1", a.RESPONSE_MODEL: "gpt-4.1-2025-04-14", a.SERVER_ADDRESS: "api.openai.com",
    a.SERVER_PORT: 443, a.COST_CURRENCY: "USD", a.COST_SOURCE: "local", a.RESPONSE_TIME_TO_FIRST_CHUNK: 0.4,
}  # fmt: skip
USAGE = Usage(input=1000, cache_read=500, output=200)


def microseconds(act: Callable[[], None]) -> float:
    """Of CPU for each of the calls, the median of the rounds."""
    times: list[float] = []
    for _ in range(ROUNDS):
        start = time.process_time()
        act()
        times.append((time.process_time() - start) / CALLS * 1e6)
    return statistics.median(times)


def main() -> None:
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    counted = CallMetrics()

    def record() -> None:
        for _ in range(CALLS):
            counted.record(FACTS, USAGE, 123_456, 1.5)

    on_the_way: list[float] = []
    collected: list[float] = []
    for _ in range(ROUNDS):
        start = time.process_time()
        record()
        between = time.process_time()
        reader.get_metrics_data()
        on_the_way.append((between - start) / CALLS * 1e6)
        collected.append((time.process_time() - between) / CALLS * 1e6)
    at_once = microseconds(lambda: (record(), counted.drain())[0])
    print(f"on a call's way         {statistics.median(on_the_way):6.2f} us   (bound: 5)")
    print(f"when a reader collects  {statistics.median(collected):6.2f} us a call, in the reader's thread")
    print(f"without waiting         {at_once:6.2f} us a call")


if __name__ == "__main__":
    main()
