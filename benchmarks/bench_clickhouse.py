"""The ledger at size: inserts by path, bytes a row, and what people ask, from the calls and from the rollups.

    python benchmarks/bench_clickhouse.py [--rows 10000000] [--keep DIRECTORY]

Makes 30 days of calls (121 features on 40 services, 25 models, 300 tenants, 600,000 users) in embedded ClickHouse, the
engine of a server, and times each question five times; the median counts. In brackets: rows answered, rows read.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.progress import track

from spanledger_clickhouse.database import insert as writer
from spanledger_clickhouse.database import migrations
from spanledger_clickhouse.database.connection import Target, open_client, resolve_target
from spanledger_clickhouse.database.rollups import Rollups
from spanledger_clickhouse.rows.rows import COLUMNS, Row

DAYS, CHUNK = 30, 1_000_000

CALLS = """
INSERT INTO llm_calls (
    tenant_id, start_time, trace_id, span_id, response_id, process_id, sequence, service, environment, feature, user_id, request_id,
    customer_tier, provider, operation, request_model, response_model, server_address, is_streaming, max_tokens, prompt_hash,
    input_uncached_tokens, cache_read_tokens, cache_write_tokens, output_text_tokens, reasoning_tokens, usage_source,
    cost_usd, input_cost_usd, cache_read_cost_usd, cache_write_cost_usd, output_cost_usd, tools_cost_usd, other_cost_usd,
    price_status, price_key, price_source, price_version, price_flags, duration_us, time_to_first_chunk_us, outcome, finish_reasons,
    attempts, usage_json, scope)
WITH
    cityHash64(number) AS a, cityHash64(number, 1) AS b, cityHash64(number, 2) AS c, cityHash64(intDiv(number, 3)) AS request,
    request % 121 AS feature_number, (feature_number * 7 + b % 2) % 25 AS model_number,
    ['openai', 'anthropic', 'gcp.gemini'][1 + model_number % 3] AS provider_name,
    concat(['gpt-5.', 'claude-', 'gemini-'][1 + model_number % 3], toString(model_number)) AS model_name,
    toUInt32(50 + a % 3000) AS fresh, toUInt32(if(b % 3 = 0, 1024 * (1 + c % 8), 0)) AS cached,
    toUInt32(if(b % 17 = 0, 1024, 0)) AS written, toUInt32(10 + c % 900) AS output,
    toDecimal64((1 + model_number) * 0.0000001, 12) AS rate,
    fresh * rate AS c_in, cached * toDecimal64((1 + model_number) * 0.00000001, 12) AS c_read,
    written * toDecimal64((1 + model_number) * 0.000000125, 12) AS c_write, output * toDecimal64((1 + model_number) * 0.0000004, 12) AS c_out
SELECT
    concat('tenant-', toString(request % 300)),
    toDateTime64({begin:DateTime}, 6, 'UTC') + toIntervalMicrosecond(toUInt64(number * ({span:UInt64} / {rows:UInt64})) + a % 1000000),
    lower(hex(MD5(toString(intDiv(number, 3))))), lower(leftPad(hex(a), 16, '0')), concat('chatcmpl-', substring(lower(hex(MD5(toString(number)))), 1, 24)),
    lower(hex(cityHash64('process', request % 200, intDiv(number, 100000)))), intDiv(number, 200),
    concat('service-', toString(feature_number % 40)), if(b % 50 = 0, 'staging', 'prod'), if(c % 100 = 0, NULL, concat('feature-', toString(feature_number))),
    if(c % 100 = 0, NULL, concat('user-', toString(toUInt64(pow((request % 1000000) / 1000000, 3) * 1000000)))),
    concat('req-', lower(substring(hex(request), 1, 12))),
    ['free', 'pro', 'enterprise'][1 + request % 3], provider_name, 'chat', model_name, model_name,
    ['api.openai.com', 'api.anthropic.com', 'generativelanguage.googleapis.com'][1 + model_number % 3],
    b % 2 = 0, if(b % 4 = 0, NULL, 4096), lower(hex(cityHash64('prompt', feature_number))),
    fresh, cached, written, output, if(model_number % 4 = 0, intDiv(output, 2), 0), 'exact',
    if(b % 200 = 0, NULL, c_in + c_read + c_write + c_out), if(b % 200 = 0, NULL, c_in), if(b % 200 = 0, NULL, c_read),
    if(b % 200 = 0, NULL, c_write), if(b % 200 = 0, NULL, c_out), if(b % 200 = 0, NULL, 0), if(b % 200 = 0, NULL, 0),
    if(b % 200 = 0, 'unpriced:no_model', 'priced'), model_name, 'bundled', '1.109.1', ['exact'],
    200000 + b % 9000000, if(b % 2 = 0, 100000 + c % 900000, NULL), if(c % 90 = 0, 'error', 'ok'), [if(b % 60 = 0, 'length', 'stop')],
    if(c % 40 = 0, 2, 1), concat('{"prompt_tokens":', toString(fresh + cached), ',"completion_tokens":', toString(output), '}'), 'spanledger.openai'
FROM numbers({offset:UInt64}, {count:UInt64})
"""

QUESTIONS = {
    "spend over time by feature": (
        "SELECT toStartOfInterval(start_time, {step}) AS t, feature, sum(cost_usd) FROM llm_calls FINAL WHERE {calls} GROUP BY t, feature",
        "SELECT toStartOfInterval(bucket, {step}) AS t, feature, sum(cost_usd) FROM llm_costs WHERE {rollup} GROUP BY t, feature",
    ),
    "spend by feature": (
        "SELECT feature, sum(cost_usd) AS s, count() FROM llm_calls FINAL WHERE {calls} GROUP BY feature ORDER BY s DESC",
        "SELECT feature, sum(cost_usd) AS s, sum(calls) FROM llm_costs WHERE {rollup} GROUP BY feature ORDER BY s DESC",
    ),
    "spend by model": (
        "SELECT provider, c.model AS m, sum(cost_usd) AS s, sum(c.total_tokens) FROM llm_calls AS c FINAL WHERE {calls} GROUP BY provider, m ORDER BY s DESC",
        "SELECT provider, model, sum(cost_usd) AS s, sum(input_tokens + output_tokens) FROM llm_costs WHERE {rollup} GROUP BY provider, model ORDER BY s DESC",
    ),
    "top 20 users": (
        "SELECT user_id, sum(cost_usd) AS s, count() FROM llm_calls FINAL WHERE {calls} GROUP BY user_id ORDER BY s DESC LIMIT 20",
        "SELECT user_id, sum(cost_usd) AS s, sum(calls) FROM llm_costs_users WHERE {days} GROUP BY user_id ORDER BY s DESC LIMIT 20",
    ),
    "spend by tenant and tier": (
        "SELECT tenant_id, customer_tier, sum(cost_usd) AS s FROM llm_calls FINAL WHERE {calls} GROUP BY tenant_id, customer_tier ORDER BY s DESC",
        "SELECT tenant_id, customer_tier, sum(cost_usd) AS s FROM llm_costs_daily WHERE {days} GROUP BY tenant_id, customer_tier ORDER BY s DESC",
    ),
    "share without price or owner": (
        "SELECT countIf(price_status LIKE 'unpriced:%') / count(), sumIf(cost_usd, attribution_reason != '') / nullIf(sum(cost_usd), 0) FROM llm_calls FINAL WHERE {calls}",
        "SELECT sum(unpriced_calls) / sum(calls), sum(unattributed_cost_usd) / nullIf(sum(cost_usd), 0) FROM llm_costs WHERE {rollup}",
    ),
    "cache hit rate by model": (
        "SELECT c.model AS m, sum(toUInt64(cache_read_tokens)) / sum(c.input_tokens) FROM llm_calls AS c FINAL WHERE {calls} GROUP BY m",
        "SELECT model, sum(cache_read_tokens) / sum(input_tokens) FROM llm_costs WHERE {rollup} GROUP BY model",
    ),
    "p95 of cost and duration by model": (
        "SELECT c.model AS m, quantileTDigest(0.95)(toFloat64(cost_usd)), quantileTDigest(0.95)(duration_us) FROM llm_calls AS c FINAL WHERE {calls} GROUP BY m",
        "SELECT model, quantilesTDigestMerge(0.5, 0.95, 0.99)(cost)[2], quantilesTDigestMerge(0.5, 0.95, 0.99)(duration)[2] FROM llm_quantiles_1h WHERE {rollup} GROUP BY model",
    ),
    "budgets": (None, "SELECT * FROM budget_status"),
    "trends": (None, "SELECT * FROM cost_trend"),
    "anomalies": (None, "SELECT * FROM cost_anomalies"),
    "users over 1 % of a day's budget in an hour": ("SELECT * FROM user_hour_over_daily_share", None),
    "one trace": ("SELECT sum(cost_usd), count() FROM llm_calls FINAL WHERE trace_id = lower(hex(MD5('12345')))", None),
    "one request": ("SELECT sum(cost_usd), count() FROM llm_calls FINAL WHERE request_id = concat('req-', lower(substring(hex(cityHash64(12345)), 1, 12)))", None),
}  # fmt: skip


def generate(client: Any, rows: int, begin: datetime) -> float:
    """Fill the table; rows a second."""
    start = time.monotonic()
    chunks = range(0, rows, CHUNK)
    for offset in track(chunks, "making calls", disable=not sys.stderr.isatty()):
        client.command(CALLS, parameters={
            "begin": begin, "span": DAYS * 86_400_000_000 - 3_600_000_000, "rows": rows, "offset": offset, "count": min(CHUNK, rows - offset),
        })  # fmt: skip
    return rows / (time.monotonic() - start)


class Nowhere:
    """A client that builds what the driver would send, and sends it nowhere."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def insert(self, table: str, data: Any, **options: Any) -> None:
        from clickhouse_connect.driver.transform import NativeTransform

        options.pop("settings")
        context = self.client.create_insert_context(table, data=data, **options)
        for _ in NativeTransform.build_insert(context):
            pass


def inserts(client: Any, where: Target) -> None:
    """Rows a second into a table of the same shape, by path."""
    sample: list[Row] = [
        tuple(row) for row in client.query(f"SELECT {', '.join(COLUMNS)} FROM llm_calls LIMIT 50000").result_rows
    ]
    sample = [(row[0], row[1].replace(tzinfo=UTC), *row[2:]) for row in sample]
    arrow = client.query_arrow(f"SELECT {', '.join(COLUMNS)} FROM llm_calls LIMIT 50000", use_strings=True)

    def measured(name: str, insert: Callable[[int], Any], size: int, times: int) -> None:
        client.command("CREATE OR REPLACE TABLE inserted AS llm_calls")
        cpu, start = time.process_time(), time.monotonic()
        for number in range(times):
            insert(number)
        cpu, taken = time.process_time() - cpu, time.monotonic() - start
        print(
            f"insert, {name:<38} {size * times / taken:9,.0f} rows/s, {cpu / size / times * 1e6:6.1f} us of CPU a row, engine included"
        )

    nowhere = Nowhere(client)
    cpu = time.process_time()
    for number in range(20):
        writer.insert(nowhere, where, sample[500 * number : 500 * number + 500])
    print(
        f"the driver alone, 500 rows a batch             {(time.process_time() - cpu) / 10_000 * 1e6:6.1f} us of CPU a row"
    )

    for size, times in ((500, 20), (5000, 10), (50_000, 2)):
        measured(
            f"as the shipper does, {size:,} a batch",
            lambda _, size=size: writer._insert(client, where, "inserted", COLUMNS, sample[:size], str(time.time_ns())),
            size,
            times,
        )
    measured(
        "Arrow, 50,000 a batch",
        lambda _: client.insert_arrow("inserted", arrow, settings={"optimize_on_insert": 0}),
        50_000,
        4,
    )
    client.command("DROP TABLE inserted")


STEP_HOURS = {1: 1, 7: 6, 30: 24}
"""Days of a chart -> hours of a point, as a dashboard of usual width has them."""


def ask(client: Any, begin: datetime, end: datetime) -> None:
    """Every question over 1, 7 and 30 days: milliseconds, how many rows the answer has, how many it reads."""
    print(
        f"\n{'milliseconds, the median of five (rows answered, read)':<46}"
        + "".join(f"{f'{days} d, calls':>28}{'rollups':>28}" for days in (1, 7, 30))
    )
    for name, forms in QUESTIONS.items():
        cells = []
        for days in (1, 7, 30):
            since = max(begin, end - timedelta(days=days))
            places = {
                "{calls}": f"start_time >= '{since:%Y-%m-%d %H:%M:%S}'", "{rollup}": f"bucket >= '{since:%Y-%m-%d %H:%M:%S}'",
                "{days}": f"bucket >= '{since:%Y-%m-%d}'", "{step}": f"INTERVAL {STEP_HOURS[days]} HOUR",
            }  # fmt: skip
            for form in forms:
                if form is None or (days > 1 and "{" not in form):
                    cells.append(f"{'':>28}")
                    continue
                for place, value in places.items():
                    form = form.replace(place, value)  # noqa: PLW2901
                times, answered = [], 0
                for _ in range(5):
                    start = time.perf_counter()
                    found = client.query(form)
                    times.append((time.perf_counter() - start) * 1000)
                    answered = len(found.result_rows)
                read = sum(row[3] for row in client.query(f"EXPLAIN ESTIMATE {form}").result_rows)
                cells.append(f"{f'{statistics.median(times):,.0f} ({answered:,}, {read:,})':>28}")
        print(f"{name:<46}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=10_000_000, help="how many calls (default 10,000,000; 100,000,000 takes 9 GB)"
    )
    parser.add_argument("--keep", type=Path, help="keep the ledger there, and use what it holds already")
    asked = parser.parse_args()
    directory = asked.keep or Path(tempfile.mkdtemp())
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    begin = end - timedelta(days=DAYS)
    where = resolve_target(f"chdb://{directory}")
    try:
        with open_client(where) as client:
            migrations.migrate(client, where)
            client.command(f"USE `{where.database}`")
            if not client.query("SELECT count() FROM llm_calls").result_rows[0][0]:
                print(f"made {asked.rows:,} calls, {generate(client, asked.rows, begin):,.0f} rows/s within the engine")
            client.insert("budgets", [["all", "global", "", "month", 10_000], ["f", "feature", "feature-1", "month", 500], ["u", "user", "user-7", "day", 5]],
                          column_names=["name", "scope", "key", "period", "amount_usd"])  # fmt: skip
            start = time.monotonic()
            client.command("OPTIMIZE TABLE llm_calls FINAL")  # what a server does by itself with months that are over
            print(f"merged into one part a month: {time.monotonic() - start:.1f} s")
            size = client.query(
                "SELECT sum(bytes_on_disk) / sum(rows), sum(rows) FROM system.parts WHERE active AND table = 'llm_calls'"
            ).result_rows[0]
            print(f"on disk: {size[0]:.1f} bytes a row, indexes included")
            inserts(client, where)
            start = time.monotonic()
            done = Rollups(client, where).refresh()
            print(
                f"rollups of {len(done.days)} days: {time.monotonic() - start:.1f} s, {(time.monotonic() - start) / max(1, size[1]) * 1e6:.2f} us a call"
            )
            for table in ("llm_costs_1h", "llm_costs_1d", "llm_costs_1d_user", "llm_quantiles_1h"):
                rows, megabytes = client.query(
                    f"SELECT sum(rows), sum(bytes_on_disk) / 1e6 FROM system.parts WHERE active AND table = '{table}'"
                ).result_rows[0]
                print(f"  {table:<20} {rows:>12,} rows {megabytes:8.1f} MB")
            ask(client, begin, end)
    finally:
        if asked.keep is None:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
