"""What keeping a row costs: onto disk in the application, out of the spool into ClickHouse, memory over many rows.

python benchmarks/bench_ledger.py [--rows 1000000]
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from spanledger.semconv import attributes as a
from spanledger.spool.otlp_json import Encoder
from spanledger.spool.writer import Spool


def example() -> bytes:
    """A row as an application's call makes it."""
    from spanledger.capture.processor import LedgerProcessor

    with tempfile.TemporaryDirectory() as directory:
        spool = Spool(Path(directory), 1 << 30)
        tracing = TracerProvider(resource=Resource({"service.name": "bench"}), shutdown_on_exit=False)
        tracing.add_span_processor(LedgerProcessor(spool))
        found = {a.OPERATION: "chat", a.PROVIDER: "openai", a.REQUEST_MODEL: "gpt-4.1-mini", a.OUTCOME: "ok"}
        found |= {
            a.RESPONSE_MODEL: "gpt-4.1-mini",
            "gen_ai.usage.input_tokens": 1200,
            "gen_ai.usage.output_tokens": 300,
        }
        tracing.get_tracer("spanledger.openai", "1").start_span("chat gpt-4.1-mini", attributes=found).end()
        spool.close()
        [file] = Path(directory).glob("*.jsonl")
        return file.read_bytes()


def variants(line: bytes, count: int, start: int = 0):
    """The row `count` times, each a span of its own."""
    head, tail = re.split(rb'"spanId":"[0-9a-f]{16}"', line)
    trace = re.compile(rb'"traceId":"[0-9a-f]{32}"')
    for number in range(start, start + count):
        yield trace.sub(b'"traceId":"%032x"' % number, head) + b'"spanId":"%016x"' % number + tail


def append(line: bytes) -> None:
    """Encoding and writing, on the application's thread."""
    with tempfile.TemporaryDirectory() as directory:
        spool, encoder = Spool(Path(directory), 1 << 34), Encoder()
        tracing = TracerProvider(shutdown_on_exit=False)
        span = tracing.get_tracer("spanledger.openai").start_span(
            "chat", attributes={f"attribute.{n}": "value" if n % 2 else n for n in range(40)}
        )
        span.end()
        writing, both = [], []
        for _ in range(15):
            start = time.thread_time_ns()
            for _ in range(500):
                spool.append(line)
            writing.append((time.thread_time_ns() - start) / 500_000)
            start = time.thread_time_ns()
            for _ in range(500):
                spool.append(encoder.line(span))
            both.append((time.thread_time_ns() - start) / 500_000)
    print(f"onto disk, {len(line):,} bytes                {statistics.median(writing):7.1f} us a row")
    print(f"encoding 40 attributes, and onto disk    {statistics.median(both):7.1f} us a row")


CHILD = """
import sys, time
from pathlib import Path
from spanledger_clickhouse.database import migrations as schema; from spanledger_clickhouse.ship import shipper
from spanledger_clickhouse.database.connection import open_client, resolve_target
from spanledger_clickhouse.ship.sinks import ClickHouseSink

class Nowhere:
    shown = "nowhere"
    def send(self, lines): pass
    def close(self): pass

def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

directory, dsn, rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if dsn == "nowhere":
    sizes = []
    cpu, start = time.process_time(), time.monotonic()
    done = shipper.drain(directory, Nowhere(), lambda _: sizes.append(memory()))
    print(done.rows / (time.process_time() - cpu), done.rows / (time.monotonic() - start), sizes[len(sizes) // 5], max(sizes))
else:
    where = resolve_target(dsn)
    with open_client(where) as client:
        schema.migrate(client, where)
        cpu, start = time.process_time(), time.monotonic()
        done = shipper.drain(directory, ClickHouseSink(where, client))
        print(done.rows / (time.process_time() - cpu), done.rows / (time.monotonic() - start), 0, 0)
"""


def drain(line: bytes, rows: int, dsn: str) -> tuple[float, float, float, float]:
    """(rows a second of CPU, rows a second, megabytes early, megabytes at most) of draining `rows` rows."""
    with tempfile.TemporaryDirectory() as directory:
        spool = Spool(Path(directory) / "spool", 1 << 36)
        for each in variants(line, rows):
            spool.append(each)
        spool.close()
        where = dsn.format(directory=directory)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, Path(directory) / "spool", where, str(rows)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        found = [float(part) for part in done.stdout.split()]
        return found[0], found[1], found[2], found[3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="rows for the memory figure (default 200,000)")
    asked = parser.parse_args()
    line = example()
    append(line)
    cpu, wall, *_ = drain(line, 50_000, "chdb://{directory}/ledger")
    print(f"spool -> ClickHouse (chDB), 50,000 rows  {cpu:9,.0f} rows/s of CPU, {wall:9,.0f} rows/s")
    cpu, wall, early, most = drain(line, asked.rows, "nowhere")
    print(f"spool -> rows, {asked.rows:,} rows             {cpu:9,.0f} rows/s of CPU, {wall:9,.0f} rows/s")
    print(f"memory of the shipper: {early:.1f} MB after a fifth, {most:.1f} MB at most")


if __name__ == "__main__":
    main()
