"""The Collector's configurations, with the real Collector: each is valid, and together they lose and double nothing.

The binary is built by `make collector` from collector-config/builder-config.yaml.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from collector_stack import CONFIGURATIONS, Stack, answers, collector_binary, settled
from foreign_spans import body, foreign
from programs import APPLICATION, BIN, Programs, until
from spanledger_clickhouse.database.connection import open_client, resolve_target
from spanledger_clickhouse.demo import run as demo
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.rows import otlp

pytestmark = pytest.mark.services


@pytest.fixture(scope="session")
def collector() -> Path:
    return collector_binary()


def configurations() -> list[Path]:
    return sorted(path for path in CONFIGURATIONS.glob("*.yaml") if path.name != "builder-config.yaml")


@pytest.mark.parametrize("file", configurations(), ids=lambda path: path.stem)
def test_the_collector_accepts_the_configuration(collector: Path, file: Path, tmp_path: Path):
    environment = {**os.environ, "SPANLEDGER_QUEUE_DIR": str(tmp_path)}
    done = subprocess.run(
        [collector, "validate", "--config", file], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    broken = tmp_path / "broken.yaml"
    broken.write_text(file.read_text().replace("sending_queue:", "sending_cue:"))
    done = subprocess.run(
        [collector, "validate", "--config", broken], env=environment, capture_output=True, check=False
    )
    assert done.returncode != 0, "validating finds nothing"


def test_it_is_built_of_exactly_what_the_configurations_use(collector: Path):
    built = set(
        re.findall(
            r"(receiver|processor|exporter|extension)/(?:storage/)?(\w+)",
            (CONFIGURATIONS / "builder-config.yaml").read_text(),
        )
    )
    used: set[tuple[str, str]] = set()
    names = {"otlp_json_file": "otlpjsonfile", "memory_limiter": "memorylimiter", "otlp_http": "otlphttp", "file_storage": "filestorage", "health_check": "healthcheck"}  # fmt: skip
    for file in configurations():
        kind = ""
        for line in file.read_text().splitlines():
            if section := re.match(r"(receiver|processor|exporter|extension)s:", line):
                kind = section[1]
            elif re.match(r"\w", line):
                kind = ""
            elif kind and (entry := re.match(r"  (\w+)", line)):
                used.add((kind, names.get(entry[1], entry[1])))
    used |= {("exporter", "otlp"), ("exporter", "nop")}  # inside loadbalancing; for the benchmark
    assert {(kind, name.removesuffix(kind)) for kind, name in built} == used


@pytest.fixture
def stack(programs: Programs, collector: Path, tmp_path: Path) -> Stack:
    return Stack(programs, collector, tmp_path)


def test_what_is_no_llm_call_stays_out_of_the_ledger_and_other_instrumentors_calls_get_in(stack: Stack):
    stack.collect("gateway.yaml")
    web = otlp.Span(
        "opentelemetry.instrumentation.fastapi",
        {},
        {"http.method": "GET"},
        "a" * 32,
        "5" * 16,
        "",
        "GET /",
        1,
        2,
        False,
    )
    now = time.time_ns()
    spans = [foreign(start=now), foreign("openlit.otel.tracing", "2" * 16, parent="1" * 16, start=now + 5), web]
    httpx.post(
        f"{stack.endpoint}/v1/traces", content=body(*spans), headers={"Content-Type": "application/json"}
    ).raise_for_status()
    settled(lambda: stack.ask("SELECT count() FROM llm.llm_calls")[0][0], 1)
    assert stack.ask("SELECT span_id, price_status FROM llm.llm_calls") == [("2" * 16, "priced")]
    told = httpx.get(f"{stack.env['SPANLEDGER_GATEWAY']}/metrics").text
    assert 'spanledger_gateway_spans_total{state="wrapper"} 1.0' in told
    assert 'spanledger_gateway_spans_total{state="not_a_call"} 1.0' in told


def test_the_spool_itself_can_be_read(stack: Stack, provider: Provider, tmp_path: Path):
    (tmp_path / "app.py").write_text(APPLICATION.replace("while True:", "while number < 5:"))
    app = stack.programs(BIN / "opentelemetry-instrument", BIN / "python", "app.py")
    app.process.wait(60)
    stack.programs(stack.binary, "--config", CONFIGURATIONS / "file.yaml", **stack.env,
                   SPANLEDGER_SPOOL_DIR=str(tmp_path / "spanledger/spool"))  # fmt: skip
    sold = {each.id: each.picousd for each in provider.sold}
    assert len(sold) == 20
    settled(lambda: stack.ask("SELECT count() FROM llm.llm_calls FINAL")[0][0], 20)
    rows = stack.ask("SELECT response_id, cost_usd FROM llm.llm_calls FINAL")
    assert {key: int(cost.scaleb(12)) for key, cost in rows} == sold


def test_an_agent_passes_spans_on_by_trace(stack: Stack):
    stack.collect("gateway.yaml")
    ports = {name: str(demo.free_port()) for name in ("GRPC", "HTTP", "HEALTH")}
    stack.programs(
        stack.binary, "--config", CONFIGURATIONS / "agent.yaml",
        **{f"SPANLEDGER_AGENT_{name}_PORT": port for name, port in ports.items()},
        SPANLEDGER_COLLECTORS_PORT=stack.ports["grpc"], SPANLEDGER_QUEUE_DIR=str(stack.directory / "agent"),
    )  # fmt: skip
    until(lambda: answers(f"http://127.0.0.1:{ports['HEALTH']}/"), 60)
    spans = [foreign(span_id=f"{n:016x}", start=time.time_ns())._replace(trace_id=f"{n:032x}") for n in range(1, 9)]
    httpx.post(
        f"http://127.0.0.1:{ports['HTTP']}/v1/traces",
        content=body(*spans),
        headers={"Content-Type": "application/json"},
    )
    settled(lambda: stack.ask("SELECT count() FROM llm.llm_calls FINAL")[0][0], 8)
    total = stack.ask("SELECT sum(cost_usd) FROM llm.llm_calls FINAL")[0][0]
    assert total == 8 * Decimal("0.00056")


SQL_ONLY = {"of its own": (False, ""), "JSON, elsewhere": (True, "observability.spans")}
JSON_TABLE = """
CREATE TABLE {table} (
    Timestamp DateTime64(9), TraceId String, SpanId String, ParentSpanId String, TraceState String, SpanName LowCardinality(String),
    SpanKind LowCardinality(String), ServiceName LowCardinality(String), ResourceAttributes JSON, ResourceAttributesKeys Array(LowCardinality(String)),
    ScopeName String, ScopeVersion String, SpanAttributes JSON, SpanAttributesKeys Array(LowCardinality(String)), Duration UInt64,
    StatusCode LowCardinality(String), StatusMessage String,
    Events Nested (Timestamp DateTime64(9), Name LowCardinality(String), Attributes JSON),
    Links Nested (TraceId String, SpanId String, TraceState String, Attributes JSON)
) ENGINE = MergeTree ORDER BY Timestamp
"""
"""As the exporter makes it with `json: true` (release 0.159)."""


@pytest.mark.parametrize("kind", SQL_ONLY)
def test_the_collector_alone_fills_the_ledger(
    kind: str, stack: Stack, programs: Programs, tmp_path: Path, provider: Provider
):
    is_json, table = SQL_ONLY[kind]
    words = ["migrate", "--otel-traces"]
    configuration = tmp_path / "sql-only.yaml"
    text = (CONFIGURATIONS / "sql-only.yaml").read_text()
    if table:
        database, _, name = table.partition(".")
        with open_client(resolve_target(stack.dsn)) as client:
            client.command(f"CREATE DATABASE {database}")
            client.command(JSON_TABLE.format(table=table))
        words += ["--otel-traces-from", table]
        text = text.replace(
            "database: ${env:CLICKHOUSE_DATABASE:-spanledger}", f"database: {database}\n    json: {is_json}".lower()
        )
        text = text.replace("traces_table_name: otel_traces", f"traces_table_name: {name}")
    configuration.write_text(text)
    for command in (words, ["prices", "sync"]):
        subprocess.run(
            [BIN / "spanledger", *command],
            env={**programs.env, "SPANLEDGER_DSN": stack.dsn},
            check=True,
            capture_output=True,
        )
    programs(
        stack.binary, "--config", configuration, **stack.env, CLICKHOUSE_DATABASE="llm", CLICKHOUSE_PASSWORD="s3cret",
        CLICKHOUSE_ENDPOINT=f"http://127.0.0.1:{stack.ports['clickhouse']}?compress=none",
    )  # fmt: skip
    until(lambda: posted(f"{stack.endpoint}/v1/traces", b"{}"), 60)
    (tmp_path / "app.py").write_text(APPLICATION.replace("while True:", "while number < 5:"))
    app = programs(
        BIN / "opentelemetry-instrument", BIN / "python", "app.py", OTEL_TRACES_EXPORTER="otlp", OTEL_SERVICE_NAME="assistant",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf", OTEL_EXPORTER_OTLP_ENDPOINT=stack.endpoint,
    )  # fmt: skip
    app.process.wait(60)
    now = time.time_ns()
    spans = [
        foreign(span_id=f"{n:016x}", start=now, **{"gen_ai.response.finish_reasons": ["stop", "length"]})._replace(trace_id=f"{n:032x}")
        for n in range(1, 51)
    ]  # fmt: skip
    assert posted(f"{stack.endpoint}/v1/traces", body(*spans))
    settled(lambda: stack.ask("SELECT count() FROM llm.llm_calls FINAL")[0][0], 70)
    columns = "price_status, usage_source, service, finish_reasons, count(), sum(cost_usd), uniqExact(trace_id)"
    rows = stack.ask(f"SELECT {columns} FROM llm.llm_calls FINAL WHERE scope LIKE 'opentelemetry%' GROUP BY ALL")
    assert rows == [("priced", "exact", "shop", ["stop", "length"], 50, 50 * Decimal("0.00056"), 50)]
    sold = {each.id: each.picousd for each in provider.sold}
    rows = stack.ask(
        "SELECT response_id, cost_usd, price_flags, service FROM llm.llm_calls FINAL WHERE scope LIKE 'spanledger%'"
    )
    assert {key: int(cost.scaleb(12)) for key, cost, *_ in rows} == sold
    assert {(tuple(flags), service) for _, _, flags, service in rows} == {(("proxy",), "assistant")}


def posted(url: str, content: bytes) -> bool:
    try:
        return (
            httpx.post(url, content=content, headers={"Content-Type": "application/json"}, timeout=10).status_code
            == 200
        )
    except httpx.HTTPError:
        return False
