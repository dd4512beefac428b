"""The way without anything of ours between the Collector and ClickHouse: otel_traces, priced in SQL."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from conftest import Recorded
from empty_ledger import empty_ledger
from foreign_spans import CONVENTIONS, foreign
from price_oracle import oracle
from spanledger.pricing import quote
from spanledger.pricing.model_names import canonical
from spanledger.semconv import attributes as a
from spanledger.semconv.usage import from_attributes
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import migrations
from spanledger_clickhouse.database.connection import Target, open_client
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.rows.otlp import Span
from spanledger_clickhouse.rows.rows import COLUMNS

AT = datetime(2026, 11, 23, 8, tzinfo=UTC)
NS = int(AT.timestamp()) * 10**9
TRACES = {
    "Timestamp": "DateTime64(9)", "TraceId": "String", "SpanId": "String", "ParentSpanId": "String", "SpanName": "LowCardinality(String)",
    "ServiceName": "LowCardinality(String)", "ResourceAttributes": "Map(LowCardinality(String), String)", "ScopeName": "String",
    "SpanAttributes": "Map(LowCardinality(String), String)", "Duration": "UInt64", "StatusCode": "LowCardinality(String)",
}  # fmt: skip

SUPPORTED = {
    "tiny", "plain", "zero_out", "out_only", "cache_read", "all_cached", "cache_write", "cache_write_1h", "cache_mix", "reasoning",
    "at_128k", "at_200k", "over_200k", "at_272k", "over_272k_mix", "over_1m", "cached_over_200k", "audio", "batch", "batch_cached",
    "batch_write", "batch_long", "flex", "flex_long", "priority", "priority_long", "ultrafast",
}  # fmt: skip
NOT_SUPPORTED = {
    "cache_write_12h", "audio_cached", "image_in", "image_out", "geo_us", "fast", "eu_residency", "vertex_region", "offpeak", "web3",
}  # fmt: skip
"""Usages that SQL leaves to `spanledger reprice`: they are unpriced:not_in_sql, never a wrong figure."""

USAGE = {
    "input": a.INPUT_TOKENS, "output": a.OUTPUT_TOKENS, "cache_read": a.CACHE_READ_TOKENS, "reasoning": a.REASONING_TOKENS,
    "audio_in": a.AUDIO_INPUT_TOKENS, "audio_out": a.AUDIO_OUTPUT_TOKENS, "image_in": a.IMAGE_INPUT_TOKENS, "image_out": a.IMAGE_OUTPUT_TOKENS,
    "cache_write_1h": a.CACHE_WRITE_1H_TOKENS, "cache_write_12h": a.CACHE_WRITE_12H_TOKENS, "cached_audio": a.AUDIO_CACHE_READ_TOKENS,
    "web_search": a.WEB_SEARCHES,
}  # fmt: skip


@pytest.fixture
def traces(tmp_path: Path) -> Iterator[Any]:
    """A client whose ledger has otel_traces and the prices in force."""
    where = empty_ledger(tmp_path / "chdb", otel_traces=True)
    with open_client(where) as client:
        client.command(f"USE `{where.database}`")
        yield client
        client.command("DROP DICTIONARY llm_rates_dictionary")  # it outlives its database in the engine


def said(value: Any) -> str:
    """An attribute as the exporter writes it into the map."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value)


def row(span: Span) -> list[Any]:
    return [
        datetime.fromtimestamp(0, UTC) + timedelta(microseconds=span.start // 1000), span.trace_id, span.span_id, span.parent_span_id,
        span.name, span.resource.get("service.name", ""), {k: said(v) for k, v in span.resource.items()}, span.scope,
        {k: said(v) for k, v in span.attributes.items()}, span.end - span.start, "Error" if span.is_error else "Unset",
    ]  # fmt: skip


def insert(client: Any, *spans: Span) -> None:
    client.insert(
        "otel_traces", [row(span) for span in spans], column_names=list(TRACES), column_type_names=list(TRACES.values())
    )


def test_every_usage_of_the_oracle_costs_in_sql_what_it_costs_in_python(traces: Any, capsys):
    spans: list[Span] = []
    expected: dict[str, tuple[str, int | None]] = {}
    for number, (line, vector) in enumerate(oracle()):
        usage = dict(vector["usage"])
        attributes: dict[str, Any] = {USAGE[name]: count for name, count in usage.items() if name in USAGE}
        written = sum(usage.get(name, 0) for name in ("cache_write", "cache_write_1h", "cache_write_12h"))
        if written:
            attributes[a.CACHE_WRITE_TOKENS] = written
        if "web_search" in vector:
            attributes[a.WEB_SEARCHES] = vector["web_search"]
            usage["web_searches"] = vector["web_search"]
        geo = vector.get("geo") or vector.get("data_residency") or vector.get("vertex_location") or ""
        attributes |= {
            a.OPERATION: "chat", a.PROVIDER: canonical(line["p"]), a.REQUEST_MODEL: line["m"], a.SERVICE_TIER: vector["tier"] or "",
            a.INFERENCE_GEO: geo, a.SPEED: vector.get("speed") or "",
        }  # fmt: skip
        span_id = f"{number:016x}"
        price = quote(
            line["p"], line["m"], usage, tier=vector["tier"] or "", geo=geo, speed=vector.get("speed") or "", at=AT
        )
        expected[span_id] = (line["v"], price.total_picousd)
        spans.append(Span("otlp.test", {}, attributes, "a" * 32, span_id, "", "chat", NS, NS, False))
    for begin in range(0, len(spans), 5000):
        insert(traces, *spans[begin : begin + 5000])
    found = traces.query("SELECT span_id, cost_usd, price_status FROM llm_calls FINAL").result_rows
    assert len(found) == len(spans)
    counts: Counter[tuple[str, str]] = Counter()
    wrong: list[tuple[str, Any, Any]] = []
    for span_id, cost, status in found:
        vector, picousd = expected[span_id]
        if cost is not None and int(cost.scaleb(12)) != picousd:
            wrong.append((vector, cost, picousd))
        counts[vector, status] += 1
    priced = sum(count for (_, status), count in counts.items() if status == "priced")
    supported = sum(count for (vector, _), count in counts.items() if vector in SUPPORTED)
    priced_supported = sum(
        count for (vector, status), count in counts.items() if vector in SUPPORTED and status == "priced"
    )
    with capsys.disabled():
        print(  # noqa: T201 - how far SQL goes belongs in the output
            f"\n{priced:,} of {len(spans):,} priced in SQL, all as in Python; of usages that SQL supports {priced_supported / supported:.1%}"
        )
    assert not wrong
    assert (
        priced_supported / supported > 0.97
    )  # the rest: prices by the clock, by bracket, in fractions of a picodollar
    assert {vector for vector, _ in counts} == SUPPORTED | NOT_SUPPORTED
    never = {"geo_us", "fast", "eu_residency", "vertex_region", "web3", "cache_write_12h"}
    assert not [key for key in counts if key[0] in never and key[1] == "priced"]


def test_spans_of_ours_are_the_same_rows_as_through_python(traces: Any, ledger: Recorded, provider: Provider):
    import anthropic
    import openai

    with openai.OpenAI(base_url=provider.url + "/v1", api_key="k") as client:
        client.chat.completions.create(
            model="gpt-4.1-mini", messages=[{"role": "user", "content": "hi"}], temperature=0.5
        )
        for _ in client.chat.completions.create(
            model="gpt-4.1-mini", stream=True, messages=[{"role": "user", "content": "s"}]
        ):
            pass
        client.chat.completions.create(model="gpt-4.1-mini", messages=[{"role": "user", "content": "[429] x"}])
    with anthropic.Anthropic(base_url=provider.url, api_key="k") as client:
        client.messages.create(model="claude-sonnet-4-6", max_tokens=9, messages=[{"role": "user", "content": "y"}])
    insert(traces, *(span for line in ledger.lines for span in otlp.spans_from_json(json.loads(line))))
    columns = [name for name in COLUMNS if name not in ("attributes", "source")]
    found = traces.query(f"SELECT {', '.join(columns)} FROM llm_calls FINAL ORDER BY start_time").result_rows
    assert len(found) == 4
    expected = [tuple(call[name] for name in columns) for call in ledger.rows]
    for got, wanted in zip(found, expected, strict=True):
        made = (got[0], got[1].replace(tzinfo=UTC), *got[2:])
        assert dict(zip(columns, made, strict=True)) == dict(zip(columns, wanted, strict=True))


@pytest.mark.parametrize("name", CONVENTIONS)
def test_calls_of_other_instrumentors_cost_the_same_in_sql(traces: Any, name: str):
    span, expected = CONVENTIONS[name]
    insert(traces, span)
    assert traces.query("SELECT cost_usd, price_status FROM llm_calls").result_rows == [(expected, "priced")]


def test_a_view_of_an_earlier_release_is_brought_up_to_date(traces: Any):
    old = "SELECT TraceId AS trace_id, SpanId AS span_id, toDateTime64(Timestamp, 6, 'UTC') AS start_time FROM otel_traces"
    traces.command(f"ALTER TABLE llm_calls_of_otel_traces MODIFY QUERY {old}")
    span, expected = next(iter(CONVENTIONS.values()))
    target = Target("chdb://", "spanledger")
    migrations.apply(traces, target, migrations.otel_traces("spanledger"))
    insert(traces, span)
    assert traces.query("SELECT cost_usd, price_status FROM llm_calls").result_rows == [(expected, "priced")]


@pytest.mark.parametrize("kind", ["audio", "image", "video"])
def test_media_tokens_read_from_the_cache_have_their_own_columns(traces: Any, kind: str):
    attributes = {
        a.OPERATION: "chat", a.PROVIDER: "gcp.gemini", a.REQUEST_MODEL: "gemini-3.5-flash", a.INPUT_TOKENS: 100, a.OUTPUT_TOKENS: 1,
        a.CACHE_READ_TOKENS: 60, f"gen_ai.usage.{kind}.input_tokens": 50, f"gen_ai.usage.{kind}.cache_read.input_tokens": 20,
    }  # fmt: skip
    insert(traces, Span("spanledger.test", {}, attributes, "1" * 32, "2" * 16, "", "chat", 10**18, 10**18 + 1, False))
    columns = ("input_uncached_tokens", f"input_{kind}_tokens", "cache_read_tokens", f"cache_read_{kind}_tokens")
    [counts] = traces.query(f"SELECT {', '.join(columns)} FROM llm_calls").result_rows
    usage = from_attributes(attributes)
    assert usage is not None
    assert counts == (
        usage.input,
        getattr(usage, f"input_{kind}"),
        usage.cache_read,
        getattr(usage, f"cache_read_{kind}"),
    )


@pytest.mark.parametrize("text", ["-5", "abc", "10.5", "4294967296", "99999999999999999999", "1e3", "NaN"])
def test_a_count_that_is_none_makes_the_call_unpriced_in_sql_too(traces: Any, text: str):
    insert(traces, foreign(start=NS, gen_ai__usage__cache_read__input_tokens=text))
    insert(traces, foreign(start=NS, span_id="2" * 16, gen_ai__usage__cache_read__input_tokens="100.0"))
    query = (
        "SELECT price_status, isNull(cost_usd), usage_source, cache_read_tokens FROM llm_calls FINAL ORDER BY span_id"
    )
    assert traces.query(query).result_rows == [("unpriced:no_usage", 1, "missing", 0), ("priced", 0, "exact", 100)]


def test_nothing_that_a_span_says_fails_the_insert(traces: Any):
    hostile = [
        "",
        "-5",
        "99999999999999999999",
        "9223372036854775807",
        "-9223372036854775808",
        "abc",
        "NaN",
        "1e309",
        "[",
        '{"a":',
        "\x00",
        "'; DROP TABLE llm_calls; --",
        "ü" * 300,
    ]
    names = [*{value for key, value in vars(a).items() if key.isupper() and isinstance(value, str)}]
    spans = [
        Span("spanledger.openai" if n % 2 else "x", {}, {**dict.fromkeys(names, text), a.OPERATION: "chat"}, "a" * 32, f"{n:016x}", "", "x", NS, NS, False)
        for n, text in enumerate(hostile)
    ]  # fmt: skip
    insert(
        traces, *spans, foreign(gen_ai__operation__name="invoke_agent"), foreign("app", gen_ai__operation__name=None)
    )
    insert(traces, foreign(start=NS), foreign(start=NS))
    assert traces.query("SELECT count() FROM llm_calls FINAL").result_rows == [(len(hostile) + 1,)]


def test_markers_become_events(traces: Any, ledger: Recorded):
    marker = Span(a.MARKER_SCOPE, {"service.name": "shop", "host.name": "h"}, {a.PROCESS_ID: "p", a.MARKER: "loss", a.LOST_ROWS: 3, a.COST_TOTAL: 5},
                  "a" * 32, "1" * 16, "", "loss", NS, NS, False)  # fmt: skip
    insert(traces, marker)
    assert traces.query(
        "SELECT process_id, kind, lost_rows, toString(lost_cost_usd), host FROM ledger_events"
    ).result_rows == [("p", "loss", 3, "0.000000000005", "h")]
    assert traces.query("SELECT count() FROM llm_calls").result_rows == [(0,)]


def test_the_command_makes_them(monkeypatch, tmp_path):
    monkeypatch.setenv("SPANLEDGER_DSN", empty_ledger(tmp_path / "made").dsn)
    found = CliRunner().invoke(main, ["migrate", "--otel-traces"])
    assert found.exit_code == 0, found.output
    assert "otel_traces/30_llm_calls_of_otel_traces.sql" in found.output


def test_the_views_read_a_table_of_another_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    where = empty_ledger(tmp_path / "chdb")
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    with open_client(where) as client:
        client.command("CREATE DATABASE observability")
        columns = ", ".join(f"{name} {kind}" for name, kind in TRACES.items())
        client.command(f"CREATE TABLE observability.spans ({columns}) ENGINE = MergeTree ORDER BY Timestamp")
    for words in (["prices", "sync"], ["migrate", "--otel-traces", "--otel-traces-from", "observability.spans"]):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
    with open_client(where) as client:
        client.insert("observability.spans", [row(foreign(start=NS))], column_names=list(TRACES))
    done = CliRunner().invoke(main, ["migrate", "--otel-traces"])  # as after an upgrade: it reads the same table
    assert done.exit_code == 0, done.output
    with open_client(where) as client:
        client.insert("observability.spans", [row(foreign(start=NS, span_id="2" * 16))], column_names=list(TRACES))
        rows = client.query("SELECT price_status, cost_usd FROM spanledger.llm_calls").result_rows
        assert rows == [("priced", Decimal("0.00056"))] * 2
        assert client.query("EXISTS spanledger.otel_traces").result_rows == [(0,)]
        client.command("DROP DICTIONARY spanledger.llm_rates_dictionary")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--otel-traces-from", "a.b"], "give both"),
        (["--otel-traces", "--otel-traces-from", "nowhere.spans"], "nowhere.spans has no column SpanAttributes"),
        (["--otel-traces", "--otel-traces-from", "llm_calls"], "llm_calls has no column SpanAttributes"),
    ],
)
def test_a_table_that_is_none_of_the_exporter_is_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPANLEDGER_DSN", empty_ledger(tmp_path / "chdb").dsn)
    done = CliRunner().invoke(main, ["migrate", *words])
    assert done.exit_code != 0
    assert message in done.output
