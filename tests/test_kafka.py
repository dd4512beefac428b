"""Through Kafka, with a real broker: consumers of the Collector that are killed, and ClickHouse as the consumer. Calls = rows."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from canned import Canned
from collector_stack import CONFIGURATIONS, Stack, collector_binary, settled
from empty_ledger import empty_ledger
from foreign_spans import body, foreign
from kafka_broker import KafkaBroker
from programs import Program, Programs, until
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import migrations
from spanledger_clickhouse.database.connection import DatabaseError, open_client
from spanledger_clickhouse.demo import run as demo
from spanledger_clickhouse.rows.otlp import Span

pytestmark = pytest.mark.services

CALLS = 600
IN_A_REQUEST = 20
HEADERS = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    broker = KafkaBroker(tmp_path_factory.mktemp("kafka"))
    yield broker
    broker.stop()


@pytest.fixture
def stack(programs: Programs, tmp_path: Path) -> Stack:
    return Stack(programs, collector_binary(), tmp_path)


def calls(count: int) -> list[Span]:
    """Calls of another instrumentor, each with a span around it that repeats its usage."""
    now = time.time_ns()
    spans: list[Span] = []
    for number in range(1, count + 1):
        trace, inner, outer = f"{number:032x}", f"{number:016x}", f"{number + 10**6:016x}"
        wrapper = foreign("openlit.otel.tracing", outer, start=now)
        spans += [
            foreign(span_id=inner, parent=outer, start=now + 1)._replace(trace_id=trace),
            wrapper._replace(trace_id=trace),  # it ends later, so it is exported later
        ]
    return spans


def send(endpoint: str, spans: list[Span]) -> None:
    """In requests of a few spans, as exporters send them."""
    for begin in range(0, len(spans), IN_A_REQUEST):
        content = body(*spans[begin : begin + IN_A_REQUEST])
        httpx.post(f"{endpoint}/v1/traces", content=content, headers=HEADERS, timeout=30).raise_for_status()


def consumer(stack: Stack) -> Program:
    return stack.programs(
        stack.binary, "--config", CONFIGURATIONS / "kafka-consume.yaml",
        **{**stack.env, "SPANLEDGER_COLLECTOR_HEALTH_PORT": str(demo.free_port())},
    )  # fmt: skip


def produce(stack: Stack, broker: KafkaBroker, topic: str, encoding: str = "otlp_proto") -> None:
    stack.env |= {
        "KAFKA_BROKERS": broker.address,
        "SPANLEDGER_KAFKA_TOPIC": topic,
        "SPANLEDGER_KAFKA_ENCODING": encoding,
    }
    stack.collect("kafka-produce.yaml")


def test_consumers_that_are_killed_lose_and_double_nothing(stack: Stack, broker: KafkaBroker):
    produce(stack, broker, "killed")
    spans = calls(CALLS)
    send(stack.endpoint, spans[: len(spans) // 2])
    consumers = [consumer(stack) for _ in range(3)]
    chance = random.Random(7)
    for part in range(len(spans) // 2, len(spans), IN_A_REQUEST * 5):
        send(stack.endpoint, spans[part : part + IN_A_REQUEST * 5])
        time.sleep(chance.uniform(0.3, 1.5))
        victim = chance.choice(consumers)
        victim.kill()
        victim.start()
    settled(lambda: stack.ask("SELECT count() FROM llm.llm_calls FINAL")[0][0], CALLS, 180)
    assert sum(each.kills for each in consumers) == 6
    numbers = stack.ask(
        "SELECT uniqExact(trace_id), uniqExact(span_id), countIf(price_status = 'priced') FROM llm.llm_calls FINAL"
    )
    assert numbers == [(CALLS, CALLS, CALLS)]


def test_messages_become_rows_in_sql(programs: Programs, canned: Canned, tmp_path: Path):
    """The view over the Kafka engine, with messages as the Collector writes them. The engine itself needs a server; in its place
    stands a table that has its columns."""
    port = demo.free_port()
    configuration = tmp_path / "json.yaml"
    configuration.write_text(
        f"receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}\n"
        f"exporters: {{otlp_http: {{endpoint: '{canned.url}', encoding: json, compression: none, sending_queue: {{enabled: false}}}}}}\n"
        "service: {telemetry: {metrics: {level: none}}, pipelines: {traces: {receivers: [otlp], exporters: [otlp_http]}}}\n"
    )  # fmt: skip
    programs(collector_binary(), "--config", configuration)
    spans = [span for span in calls(50) if span.parent_span_id]  # SQL looks at one span at a time
    odd = {"flag": True, "share": 0.5, "list": ["a", 'b"c'], "numbers": [1, 2], "text": 'quoted "text" \\ and Ünïcode'}
    spans[0] = spans[0]._replace(attributes={**spans[0].attributes, **odd}, resource={"service.name": "assistant"})
    until(lambda: answers_to_post(f"http://127.0.0.1:{port}/v1/traces"), 60)
    canned.asked.clear()
    send(f"http://127.0.0.1:{port}", spans)
    messages = [json.dumps(message) for _, _, message in canned.asked]
    assert len(messages) == 3
    where = empty_ledger(tmp_path / "engine", otel_traces=True)
    with open_client(where) as client:
        client.command("USE spanledger")
        client.command(
            "CREATE TABLE otel_kafka (body String, _error String, _topic String, _partition UInt64, _offset UInt64, _raw_message String) ENGINE = Null"
        )
        for made in migrations.kafka("spanledger", "h:1", "t", "g"):
            if "50_otel_kafka" not in made.name and "#drop" not in made.name:
                client.command(made.statement)
        client.insert(
            "otel_kafka", [[message, ""] for message in messages] + [["{", "not JSON"]], column_names=["body", "_error"]
        )
        query = (
            "SELECT count(), uniqExact(span_id), countIf(price_status = 'priced'), sum(cost_usd) FROM llm_calls FINAL"
        )
        assert client.query(query).result_rows == [(50, 50, 50, 50 * Decimal("0.00056"))]
        query = "SELECT SpanAttributes, ServiceName, Timestamp, Duration, TraceId, ScopeName FROM otel_traces ORDER BY SpanId LIMIT 1"
        [[attributes, service, at, duration, trace, scope]] = client.query(query).result_rows
        client.command("DROP DICTIONARY llm_rates_dictionary")  # it outlives its database in the engine
    assert attributes.items() >= {
        "flag": "true", "share": "0.5", "list": '["a","b\\"c"]', "numbers": "[1,2]", "text": odd["text"],
        "gen_ai.usage.input_tokens": "1000", "gen_ai.request.model": "gpt-4.1-mini",
    }.items()  # fmt: skip
    first = spans[0]
    assert (service, duration, trace, scope) == ("assistant", 10**9, first.trace_id, first.scope)
    assert at.replace(tzinfo=UTC) == datetime.fromtimestamp(first.start // 10**9, UTC).replace(
        microsecond=first.start // 1000 % 10**6
    )


def answers_to_post(url: str) -> bool:
    try:
        return httpx.post(url, content=b"{}", headers=HEADERS, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_producer_waits_for_a_broker(stack: Stack, tmp_path: Path):
    port = demo.free_port()
    stack.env |= {"KAFKA_BROKERS": f"127.0.0.1:{port}", "SPANLEDGER_KAFKA_TOPIC": "late"}
    stack.collect("kafka-produce.yaml")
    send(stack.endpoint, calls(5))
    broker = KafkaBroker(tmp_path / "broker", port)
    try:
        consumer(stack)
        settled(lambda: stack.ask("SELECT count() FROM llm.llm_calls FINAL")[0][0], 5, 120)
    finally:
        broker.stop()


@pytest.mark.parametrize("words", [["--kafka", "h:1"], ["--otel-traces", "--kafka", "h:1"]])
def test_kafka_needs_the_table_of_traces_and_a_server(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPANLEDGER_DSN", f"chdb://{tmp_path}/none")
    result = CliRunner().invoke(main, ["migrate", *words])
    assert result.exit_code != 0
    assert "--kafka" in result.output


@pytest.mark.parametrize(
    "names", [("h:1', x = '", "t", "g"), ("h:1", "a b", "g"), ("h:1", "t", ""), ("h:1", "t'", "g")]
)
def test_what_is_no_kafka_is_refused(names: tuple[str, str, str]):
    with pytest.raises(DatabaseError, match="are no Kafka"):
        migrations.kafka("spanledger", *names)
