"""Other billed operations of Anthropic (batches, iterations of other models, sessions), and free ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import httpx2
import pytest
from opentelemetry.sdk.trace import SpanProcessor

from canned import Canned, sse
from conftest import Recorded
from spanledger.capture import dedup

MODEL = "claude-sonnet-4-6"
USAGE = {"input_tokens": 100, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 0, "output_tokens": 10}
ASKED = {"model": MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": "x"}]}


def message(name: str = "msg_1", **more: Any) -> dict[str, Any]:
    return {
        "id": name, "type": "message", "role": "assistant", "model": MODEL, "content": [], "stop_reason": "end_turn",
        "stop_sequence": None, "usage": USAGE, **more,
    }  # fmt: skip


@pytest.fixture
def server(monkeypatch, public_host) -> Iterator[Canned]:
    monkeypatch.setattr("spanledger.capture.call.seen_responses", dedup.SeenResponses())
    monkeypatch.setattr("spanledger.capture.call.growing_records", dedup.GrowingRecords())
    monkeypatch.setattr("spanledger.capture.call.session_models", dedup.PendingJobs())
    canned = Canned()
    yield canned
    canned.close()


@pytest.fixture
def client(server: Canned) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="k", base_url=server.url, max_retries=0) as client:
        yield client


def values(row: dict[str, Any], *columns: str) -> tuple[Any, ...]:
    return tuple(row[column] for column in columns)


def test_counting_tokens_and_creating_a_batch_are_free(client, server, ledger: Recorded):
    server.answers["/messages/count_tokens"] = {"input_tokens": 5}
    server.answers["/messages/batches"] = {
        "id": "msgbatch_1",
        "type": "message_batch",
        "processing_status": "in_progress",
    }
    client.messages.count_tokens(model=MODEL, messages=ASKED["messages"])
    client.messages.batches.create(requests=[])
    assert ledger.rows == []


def test_a_batchs_results_are_rows_at_the_batch_price_once(client, server, ledger: Recorded):
    server.answers["/messages/batches/msgbatch_1"] = {
        "id": "msgbatch_1", "type": "message_batch", "processing_status": "ended", "created_at": "2026-11-01T10:00:00Z",
        "results_url": f"{server.url}/v1/messages/batches/msgbatch_1/results",
    }  # fmt: skip
    lines = [
        {"custom_id": f"c{n}", "result": {"type": "succeeded", "message": message(f"msg_{n}")}} for n in range(3)
    ] + [{"custom_id": "c9", "result": {"type": "errored", "error": {}}}]
    server.answers["/messages/batches/msgbatch_1/results"] = b"\n".join(json.dumps(line).encode() for line in lines)
    for _ in range(2):
        assert len(list(client.messages.batches.results("msgbatch_1"))) == 4
    rows = ledger.rows
    assert [values(row, "response_id", "is_batch", "cache_read_tokens", "cost_usd") for row in rows] == [
        (f"msg_{n}", True, 40, Decimal("0.000231")) for n in range(3)
    ]
    assert {row["start_time"].isoformat() for row in rows} == {"2026-11-01T10:00:00+00:00"}
    assert len({row["span_id"] for row in rows}) == 3


def test_an_advisor_is_a_row_with_its_own_model(client, server, ledger: Recorded):
    iterations = [
        {"type": "message", **USAGE},
        {"type": "advisor_message", "model": "claude-opus-5-5", "input_tokens": 7, "output_tokens": 3,
         "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 50, "cache_creation_input_tokens": 0,
         "cache_read_input_tokens": 0},
    ]  # fmt: skip
    server.answers["/messages"] = message(usage={**USAGE, "iterations": iterations})
    client.beta.messages.create(**ASKED)
    rows = {row["response_model"]: row for row in ledger.rows}
    assert values(rows[MODEL], "input_uncached_tokens", "cache_read_tokens", "output_text_tokens") == (1100, 40, 60)
    assert values(rows["claude-opus-5-5"], "input_uncached_tokens", "output_text_tokens", "price_status") == (
        7,
        3,
        "priced",
    )
    assert len(rows) == 2


def test_a_fallback_is_priced_iteration_by_iteration(client, server, ledger: Recorded):
    iterations = [
        {"type": "message", "model": "claude-opus-5-5", "input_tokens": 100, "output_tokens": 1,
         "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
        {"type": "fallback_message", "model": MODEL, "input_tokens": 110, "output_tokens": 20,
         "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
    ]  # fmt: skip
    server.answers["/messages"] = message(usage={**USAGE, "iterations": iterations})
    client.beta.messages.create(**ASKED)
    rows = {row["response_model"]: row for row in ledger.rows}
    assert values(rows[MODEL], "input_uncached_tokens", "output_text_tokens") == (110, 20)
    assert values(rows["claude-opus-5-5"], "input_uncached_tokens", "output_text_tokens") == (100, 1)


def test_the_service_tier_and_the_region_and_the_speed_are_recorded(client, server, ledger: Recorded):
    usage = {
        **USAGE, "cache_creation_input_tokens": 30, "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1}, "service_tier": "priority", "inference_geo": "us",
        "speed": "fast",
    }  # fmt: skip
    server.answers["/messages"] = message(usage=usage)
    client.messages.create(**ASKED)
    row = ledger.row
    assert values(row, "cache_write_tokens", "cache_write_1h_tokens", "web_searches") == (10, 20, 2)
    assert values(row, "service_tier", "inference_geo", "speed") == ("priority", "us", "fast")


def test_a_request_sent_twice_by_middleware_is_two_rows(server, ledger: Recorded):
    class Twice(anthropic.Middleware):
        def handle(self, request, call_next):
            call_next(request)
            return call_next(request)

    server.answers["/messages"] = message()
    with anthropic.Anthropic(api_key="k", base_url=server.url, middleware=[Twice()]) as client:
        client.messages.create(**ASKED)
    assert len(ledger.rows) == 2


def test_sessions_are_billed_by_their_model_requests(client, server, ledger: Recorded):
    ended = {
        "id": "sevt_2", "type": "span.model_request_end", "processed_at": "2026-11-01T10:00:00Z", "model_request_start_id": "sevt_1",
        "model_usage": USAGE,
    }  # fmt: skip
    server.answers["/events/stream"] = sse(("span.model_request_end", ended), ("session.status_idle", {"id": "sevt_3", "type": "session.status_idle"}))  # fmt: skip
    server.answers["/events"] = {"data": [ended], "next_page": None}
    with client.beta.sessions.events.stream("sesn_1") as stream:
        list(stream)
    list(client.beta.sessions.events.list("sesn_1"))
    row = ledger.row
    assert values(row, "response_id", "cache_read_tokens", "price_status") == ("sevt_2", 40, "unpriced:no_model")


@pytest.mark.parametrize("stream", [False, True])
def test_a_vertex_call_is_recorded_with_its_model(stream, server, ledger: Recorded):
    start = {"type": "message_start", "message": message(usage={**USAGE, "output_tokens": 1}, stop_reason=None)}
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 10}}
    server.answers[":streamRawPredict"] = sse(*((e["type"], e) for e in (start, delta, {"type": "message_stop"})))
    server.answers[":rawPredict"] = message()
    with anthropic.AnthropicVertex(
        region="us-east5", project_id="p", access_token="t", base_url=f"{server.url}/v1", http_client=httpx2.Client()
    ) as client:
        answer = client.messages.create(**{**ASKED, "model": "claude-sonnet-4-6@default"}, stream=stream)
        if stream:
            list(answer)
    row = ledger.row
    assert values(row, "request_model", "cache_read_tokens", "output_text_tokens", "outcome", "is_streaming") == (
        "claude-sonnet-4-6@default", 40, 10, "ok", stream,
    )  # fmt: skip


def test_spans_of_the_sdks_own_tracing_are_kept_and_not_priced(server, ledger: Recorded):
    ended: list[str] = []

    class Watch(SpanProcessor):
        def on_end(self, span):
            ended.append(span.instrumentation_scope.name)

    ledger.tracing.add_span_processor(Watch())
    server.answers["/messages"] = message()
    tracing = {"tracer_provider": ledger.tracing}
    with anthropic.Anthropic(api_key="k", base_url=server.url, open_telemetry=tracing) as client:
        client.messages.create(**ASKED)
    assert len(ledger.rows) == 1
    assert ended == ["spanledger.anthropic", "com.anthropic.sdk.python"]


def session(active: float, searches: int = 0, **other: object) -> dict[str, object]:
    """A session of a managed agent, as it is retrieved."""
    usage = {"input_tokens": 900, "active_seconds": active, "server_tool_use": {"web_search_requests": searches}}
    agent = {"id": "agent_1", "model": {"id": "claude-haiku-4-5"}}
    return {
        "type": "session",
        "id": "sesn_7",
        "created_at": "2026-11-01T09:00:00Z",
        "agent": agent,
        "usage": usage,
        **other,
    }


def test_the_runtime_of_a_session_is_one_row_that_grows(client, server, ledger: Recorded):
    server.answers["/sessions/sesn_7"] = session(90.0, 2)
    for answer in (
        session(90.0, 2),
        session(90.0, 2),
        session(450.0, 3),
        session(90.0, 2),
    ):  # the last one is an older one, from a cache
        server.answers["/sessions/sesn_7"] = answer
        client.beta.sessions.retrieve("sesn_7")
    first, last = ledger.rows
    assert values(first, "session_ms", "web_searches", "cost_usd") == (90_000, 2, Decimal("0.022"))
    assert values(last, "session_ms", "web_searches", "cost_usd") == (450_000, 3, Decimal("0.04"))
    assert (first["trace_id"], first["span_id"], first["start_time"]) == (
        last["trace_id"],
        last["span_id"],
        last["start_time"],
    )
    assert last["duration_us"] - first["duration_us"] > 359_000_000, (
        "the later statement is the later version of the row"
    )
    assert values(last, "operation", "price_status", "price_flags", "job_id") == (
        "invoke_agent",
        "priced",
        ["exact"],
        "sesn_7",
    )


def test_a_session_s_requests_have_the_model_of_its_agent(client, server, ledger: Recorded):
    ended = {
        "id": "sevt_9",
        "type": "span.model_request_end",
        "processed_at": "2026-11-01T10:00:00Z",
        "model_usage": USAGE,
    }
    snapshot = {
        "id": "sevt_a",
        "type": "session.usage",
        "processed_at": "2026-11-01T10:00:01Z",
        "usage": {"active_seconds": 36},
    }
    server.answers["/sessions"] = session(0)
    server.answers["/events"] = {"data": [ended, snapshot], "next_page": None}
    client.beta.sessions.create(agent="agent_1", environment_id="env_1")
    list(client.beta.sessions.events.list("sesn_7"))
    model, runtime = ledger.rows
    assert values(model, "operation", "request_model", "price_status") == ("chat", "claude-haiku-4-5", "priced")
    assert values(runtime, "session_ms", "cost_usd") == (36_000, Decimal("0.0008"))


def test_a_session_of_several_agents_names_no_model(client, server, ledger: Recorded):
    ended = {
        "id": "sevt_b",
        "type": "span.model_request_end",
        "processed_at": "2026-11-01T10:00:00Z",
        "model_usage": USAGE,
    }
    agent = {"id": "agent_1", "model": {"id": "claude-haiku-4-5"}, "multiagent": {"type": "coordinator", "agents": []}}
    server.answers["/sessions/sesn_8"] = session(0, id="sesn_8", agent=agent)
    server.answers["/events"] = {"data": [ended], "next_page": None}
    client.beta.sessions.retrieve("sesn_8")
    list(client.beta.sessions.events.list("sesn_8"))
    assert ledger.row["price_status"] == "unpriced:no_model"
