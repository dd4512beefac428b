"""What starting costs: CPU time and memory of importing and switching on, the SDKs imported before.

Each run is a process of its own; medians over the runs.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile

RUNS = 9

CHILD = """
import json, sys, time
import anthropic, google.genai, openai
import opentelemetry.sdk.trace
import opentelemetry.instrumentation.instrumentor
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
before = set(sys.modules)
size, cpu = memory(), time.process_time()
from spanledger.bootstrap import pre_instrument
from spanledger.instrumentors import AnthropicInstrumentor, GoogleGenAIInstrumentor, OpenAIInstrumentor
pre_instrument()
for instrumentor in (AnthropicInstrumentor, GoogleGenAIInstrumentor, OpenAIInstrumentor):
    instrumentor().instrument(skip_dep_check=True)
started = time.process_time() - cpu
from spanledger.pricing import price_table as table
deadline = time.monotonic() + 10
while table._prices is None and time.monotonic() < deadline:
    time.sleep(0.002)
heavy = [m for m in ("clickhouse_connect", "numpy", "litellm", "click", "rich", "chdb") if m in sys.modules and m not in before]
print(json.dumps({"start": started, "all": time.process_time() - cpu, "memory": memory() - size, "heavy": heavy}))
"""


def main() -> None:
    runs = []
    with tempfile.TemporaryDirectory() as state:
        for _ in range(RUNS):
            done = subprocess.run(
                [sys.executable, "-c", CHILD], env={"XDG_STATE_HOME": state}, capture_output=True, text=True, check=True
            )
            runs.append(json.loads(done.stdout))
    median = {name: statistics.median(run[name] for run in runs) for name in ("start", "all", "memory")}
    print(f"import + bootstrap                      {median['start'] * 1000:8.1f} ms CPU")
    print(f"... and the price table, in background  {median['all'] * 1000:8.1f} ms CPU in all")
    print(f"memory, price table included            {median['memory'] / 1e6:8.1f} MB")
    print(f"heavy modules imported                  {runs[0]['heavy'] or 'none'}")


if __name__ == "__main__":
    main()
