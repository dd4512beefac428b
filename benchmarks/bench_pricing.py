"""What a price costs: one quote, loading the table, and `spanledger prices quote --jsonl`.

litellm and genai-prices are measured in a virtual environment of their own (`.bench/`, made with uv at the first
run); they are no dependency of this project. litellm's compromised releases are not among those allowed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

from spanledger.pricing import price_table, quote
from spanledger.semconv.usage import from_totals

ROUNDS, TIMES, LINES = 15, 5000, 100_000

LITELLM = """
import json, statistics, time
import litellm
from litellm.types.utils import Usage, PromptTokensDetailsWrapper
plain = dict(prompt_tokens=1234, completion_tokens=567)
mix = dict(usage_object=Usage(prompt_tokens=20011, completion_tokens=1009, total_tokens=21020, cache_creation_input_tokens=4001, cache_read_input_tokens=8003))
def timed(usage):
    rounds = []
    for _ in range(7):
        start = time.thread_time_ns()
        for _ in range(300):
            litellm.cost_per_token(model="claude-opus-5-5", **usage)
        rounds.append((time.thread_time_ns() - start) / 300 / 1000)
    return statistics.median(rounds)
print(json.dumps([timed(plain), timed(mix)]))
"""

GENAI_PRICES = """
import json, statistics, time
from genai_prices import Usage, calc_price
plain = Usage(input_tokens=1234, output_tokens=567)
mix = Usage(input_tokens=20011, output_tokens=1009, cache_read_tokens=8003, cache_write_tokens=4001)
def timed(usage):
    rounds = []
    for _ in range(7):
        start = time.thread_time_ns()
        for _ in range(300):
            calc_price(usage, model_ref="claude-opus-5-5", provider_id="anthropic")
        rounds.append((time.thread_time_ns() - start) / 300 / 1000)
    return statistics.median(rounds)
print(json.dumps([timed(plain), timed(mix)]))
"""


def peers() -> Path:
    """A Python that has the two libraries we are held against."""
    root = Path(__file__).parent.parent
    python, uv = root / ".bench/bin/python", root / ".tools/bin/uv"
    if not (root / ".bench/.ready").exists():
        print("installing litellm and genai-prices into .bench/ ...", file=sys.stderr)
        override = root / ".bench/overrides.txt"
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, root / ".bench"], check=True)
        override.write_text("certifi\n")  # litellm asks for a newer one than some indexes have
        libraries = ["litellm>=1.109,!=1.107.*", "genai-prices"]
        install = ["pip", "install", "--quiet", "--python", python, "--override", override, *libraries]
        subprocess.run([uv, *install], check=True)
        (root / ".bench/.ready").touch()
    return python


def cpu(function: Callable[[], object]) -> float:
    """Median microseconds of CPU time of one call."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.thread_time_ns()
        for _ in range(TIMES):
            function()
        rounds.append((time.thread_time_ns() - start) / TIMES / 1000)
    return statistics.median(rounds)


def main() -> None:
    tracemalloc.start()
    loaded = price_table.load()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del loaded
    loads = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        price_table.load()
        loads.append(time.thread_time() - start)
    print(f"loading the price table           {statistics.median(loads) * 1000:8.1f} ms CPU, {size / 1e6:.1f} MB")
    plain = from_totals(1234, 567)
    mix = from_totals(20011, 1009, cache_read=8003, cache_write=4001, cache_write_1h=2003, reasoning=401)
    ours = [cpu(partial(quote, "anthropic", "claude-opus-5-5", usage)) for usage in (plain, mix)]
    print(f"quote, plain                      {ours[0]:8.1f} us")
    print(f"quote, cache mix                  {ours[1]:8.1f} us")
    python = peers()
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    for name, code in (("litellm.cost_per_token", LITELLM), ("genai_prices.calc_price", GENAI_PRICES)):
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, env=env)
        theirs = json.loads(done.stdout.splitlines()[-1])
        for kind, value, own in zip(("plain", "cache mix"), theirs, ours, strict=True):
            print(f"{name + ', ' + kind:<33} {value:8.1f} us = {value / own:5.1f} x")
    line = json.dumps(
        {
            "provider": "anthropic",
            "model": "claude-opus-5-5",
            "usage": {"input": 20011, "output": 1009, "cache_read": 8003},
        }
    )
    command = [Path(sys.executable).parent / "spanledger", "prices", "quote", "--jsonl"]
    start = time.monotonic()
    subprocess.run(command, input=f"{line}\n" * LINES, stdout=subprocess.DEVNULL, text=True, check=True)
    seconds = time.monotonic() - start
    print(f"prices quote --jsonl              {LINES / seconds:8.0f} lines/s")


if __name__ == "__main__":
    main()
