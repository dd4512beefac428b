"""`spanledger.record()`: calls of unknown clients, and calls that a hook has recorded already."""

from __future__ import annotations

import gc
from decimal import Decimal

import anthropic
import openai
import pytest

import spanledger
from conftest import Recorded
from spanledger import bootstrap
from spanledger.capture.dedup import PendingJobs
from spanledger.capture.dedup import SeenResponses as Registry
from spanledger_clickhouse.demo.loopback_provider import Provider

CHAT = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "how much?"}]}


@pytest.fixture(autouse=True)
def into_the_ledger(ledger: Recorded, monkeypatch):
    monkeypatch.setattr(bootstrap, "tracer", lambda scope: ledger.tracing.get_tracer(scope, "test"))
    registry = Registry()
    for module in ("spanledger.capture.call", "spanledger.manual", "spanledger.hooks.stainless"):
        monkeypatch.setattr(f"{module}.seen_responses", registry)


@pytest.fixture
def client(provider: Provider):
    with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
        yield client


def test_a_response_recorded_by_a_hook_is_not_recorded_again(client, ledger: Recorded):
    response = client.chat.completions.create(**CHAT)
    assert spanledger.record(response) is False
    assert spanledger.record(response.model_copy()) is False
    assert len(ledger.rows) == 1


def test_an_object_without_an_id_is_recognized_by_identity(client, ledger: Recorded):
    response = client.embeddings.create(model="text-embedding-3-small", input="x")
    assert spanledger.record(response) is False
    assert len(ledger.rows) == 1


def test_a_response_that_no_hook_has_seen_is_recorded_once(provider: Provider, ledger: Recorded):
    usage = anthropic.types.Usage(input_tokens=10, output_tokens=5, cache_read_input_tokens=3)
    message = anthropic.types.Message(id="msg_9", type="message", role="assistant", model="claude-sonnet-4-6", content=[], usage=usage)  # fmt: skip
    assert [spanledger.record(message) for _ in range(3)] == [True, False, False]
    row = ledger.row
    assert (row["response_id"], row["provider"], row["cache_read_tokens"], row["cost_usd"]) == (
        "msg_9", "anthropic", 3, Decimal("0.0001059"),
    )  # fmt: skip


def test_usage_of_an_unknown_client_is_recorded(ledger: Recorded):
    assert spanledger.record(
        provider="groq", model="llama-3.3-70b-versatile", usage={"input": 100, "output": 10}, response_id="g1"
    )
    assert not spanledger.record(
        provider="groq", model="llama-3.3-70b-versatile", usage={"input": 100, "output": 10}, response_id="g1"
    )
    row = ledger.row
    assert (row["provider"], row["response_id"], row["input_uncached_tokens"], row["price_status"]) == (
        "groq",
        "g1",
        100,
        "priced",
    )


def test_json_in_a_known_format_is_read(ledger: Recorded):
    body = {
        "id": "x1",
        "model": "gpt-4.1-mini",
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
    assert spanledger.record(body, provider="openai")
    assert ledger.row["input_uncached_tokens"] == 5


def test_an_unreadable_response_is_logged_and_nothing_is_raised(ledger: Recorded, caplog):
    assert spanledger.record(object()) is False
    assert "give provider, model and usage" in caplog.text
    assert ledger.rows == []


class Thing:
    pass


def test_a_freed_object_is_never_mistaken_for_another():
    registry = Registry()
    for _ in range(1_000_000):
        thing = Thing()
        assert not registry.contains_object(thing)
        registry.add_object(thing)
    del thing
    gc.collect()
    assert registry._objects == {}


def test_the_memory_for_responses_is_bounded():
    registry, expected = Registry(capacity=10), PendingJobs(capacity=10)
    for n in range(100):
        assert registry.add_if_new("openai", str(n))
        expected.put_if_absent(n, n)
    assert (len(registry._keys), len(expected._values)) == (10, 10)


def test_a_vertex_response_is_recognized_without_a_provider_name(ledger: Recorded, provider: Provider):
    from google import genai

    client = genai.Client(vertexai=True, api_key="k", http_options={"base_url": provider.url})
    response = client.models.generate_content(model="gemini-3.5-flash", contents="x")
    assert spanledger.record(response.model_copy()) is False
    assert [row["provider"] for row in ledger.rows] == ["gcp.vertex_ai"]
