"""Spans a second that ClickHouse itself turns into rows: the views over the table of the Collector's exporter, priced from the dictionary.

    python benchmarks/bench_sql_only.py [--spans 400000]

The same spans are inserted into otel_traces with the views and without them, one thread, in blocks of 20,000 as sql-only.yaml sends: the difference is what the views cost.
Bound: 300,000 spans a second and core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from empty_ledger import empty_ledger
from spanledger_clickhouse.database.connection import open_client

OURS = """map('gen_ai.operation.name', 'chat', 'gen_ai.provider.name', 'openai', 'gen_ai.request.model', 'gpt-4.1-mini',
    'gen_ai.response.model', 'gpt-4.1-mini', 'gen_ai.response.id', concat('resp-', toString(number)), 'gen_ai.usage.input_tokens', '1000',
    'gen_ai.usage.output_tokens', '50', 'user.id', concat('user-', toString(number % 1000)), 'spanledger.feature', 'chat',
    'spanledger.request.id', concat('req-', toString(number)), 'server.address', 'api.openai.com', 'spanledger.cost.total_picousd', '480000000',
    'spanledger.price.status', 'priced', 'spanledger.price.key', 'gpt-4.1-mini', 'spanledger.outcome', 'ok', 'spanledger.attempts', '1')"""
THEIRS = """map('gen_ai.operation.name', 'chat', 'gen_ai.provider.name', 'openai', 'gen_ai.request.model', 'gpt-4.1-mini',
    'gen_ai.response.model', 'gpt-4.1-mini', 'gen_ai.response.id', concat('resp-', toString(number)), 'gen_ai.usage.input_tokens', '1000',
    'gen_ai.usage.output_tokens', '50', 'user.id', concat('user-', toString(number % 1000)), 'server.address', 'api.openai.com')"""
OTHERS = "map('http.request.method', 'GET', 'url.path', '/', 'http.response.status_code', '200')"
INSERT = """
INSERT INTO otel_traces (Timestamp, TraceId, SpanId, SpanName, ServiceName, ScopeName, SpanAttributes, Duration, StatusCode)
SELECT now64(9), hex(sipHash128(number, {salt})), hex(sipHash64(number, {salt})), 'chat', 'shop', '{scope}', {attributes}, 1000000000, 'Unset'
FROM numbers({spans}) SETTINGS max_threads = 1, max_insert_threads = 1, max_block_size = 20000, min_insert_block_size_rows = 20000, min_insert_block_size_bytes = 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=400_000)
    spans = parser.parse_args().spans
    kinds = {
        "spans with their price": ("spanledger.openai", OURS),
        "spans that are priced in SQL": ("opentelemetry.util.genai.handler", THEIRS),
        "spans that are no calls": ("opentelemetry.instrumentation.fastapi", OTHERS),
    }
    with (
        tempfile.TemporaryDirectory() as directory,
        open_client(empty_ledger(Path(directory, "l"), otel_traces=True)) as client,
    ):
        client.command("USE spanledger")
        client.command("SYSTEM STOP MERGES")

        def taken(scope: str, attributes: str, salt: int) -> float:
            start = time.process_time()
            client.command(INSERT.format(scope=scope, attributes=attributes, salt=salt, spans=spans))
            return time.process_time() - start

        taken("spanledger.openai", OURS, 0)  # the first insert loads the dictionary
        with_views = {name: taken(*kind, number + 1) for number, (name, kind) in enumerate(kinds.items())}
        rows = client.query("SELECT count() FROM llm_calls").result_rows[0][0]
        for view in ("llm_calls_of_otel_traces", "ledger_events_of_otel_traces"):
            client.command(f"DROP VIEW {view}")
        print(
            f"{spans:,} spans of each kind, {rows:,} rows, one thread of the embedded engine (bound: 300,000 spans/s)"
        )
        print(f"{'':<32}{'us a span in all':>18}{'of it the views':>18}{'spans/s':>12}")
        for number, (name, kind) in enumerate(kinds.items()):
            plain = taken(*kind, number + 11)
            cost = max(with_views[name] - plain, 1e-9)
            print(
                f"{name:<32}{with_views[name] / spans * 1e6:>18.2f}{cost / spans * 1e6:>18.2f}{spans / with_views[name]:>12,.0f}"
            )


if __name__ == "__main__":
    main()
