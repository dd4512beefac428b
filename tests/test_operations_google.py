"""Other billed operations of Google (images, videos, caches, batches, interactions, live sessions), and free ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from google import genai
from google.genai import types

from canned import INTERACTION, Canned, sse
from conftest import Recorded
from spanledger.capture import dedup

USAGE = {
    "promptTokenCount": 100, "cachedContentTokenCount": 40, "candidatesTokenCount": 10, "thoughtsTokenCount": 5,
    "totalTokenCount": 115,
}  # fmt: skip
ANSWER = {
    "responseId": "r1", "modelVersion": "gemini-3.5-flash", "usageMetadata": USAGE,
    "candidates": [{"content": {"role": "model", "parts": [{"text": "x"}]}, "finishReason": "STOP", "index": 0}],
}  # fmt: skip


@pytest.fixture
def server(monkeypatch, public_host) -> Iterator[Canned]:
    monkeypatch.setattr("spanledger.capture.call.seen_responses", dedup.SeenResponses())
    canned = Canned()
    yield canned
    canned.close()


@pytest.fixture
def client(server: Canned) -> genai.Client:
    return genai.Client(api_key="k", http_options={"base_url": server.url})


@pytest.fixture
def vertex(server: Canned) -> genai.Client:
    return genai.Client(vertexai=True, api_key="k", http_options={"base_url": server.url})


def test_the_billed_project_is_recorded(server, ledger: Recorded):
    from google.oauth2.credentials import Credentials

    client = genai.Client(
        vertexai=True, project="my-project", location="europe-west1", credentials=Credentials("token"), http_options={"base_url": server.url}
    )  # fmt: skip
    server.answers["generateContent"] = ANSWER
    client.models.generate_content(model="gemini-3.5-flash", contents="x")
    assert ledger.row["attributes"] == {"spanledger.provider.project": "my-project"}


def values(row: dict[str, Any], *columns: str) -> tuple[Any, ...]:
    return tuple(row[column] for column in columns)


def test_each_hop_of_a_chat_with_tools_is_a_row(client, server, ledger: Recorded):
    def price(item: str) -> int:
        """The price of an item."""
        return len(item)

    call = {"functionCall": {"name": "price", "args": {"item": "tea"}}}
    asks = {
        **ANSWER,
        "responseId": "r0",
        "candidates": [{"content": {"role": "model", "parts": [call]}, "finishReason": "STOP"}],
    }
    server.answers[":generateContent"] = [asks, ANSWER]
    chat = client.chats.create(model="gemini-3.5-flash", config=types.GenerateContentConfig(tools=[price]))
    chat.send_message("how much is tea?")
    assert [values(row, "response_id", "cache_read_tokens", "reasoning_tokens") for row in ledger.rows] == [
        ("r0", 40, 5), ("r1", 40, 5),
    ]  # fmt: skip


def test_counting_tokens_and_files_are_free(client, server, ledger: Recorded):
    server.answers[":countTokens"] = {"totalTokens": 5}
    client.models.count_tokens(model="gemini-3.5-flash", contents="x")
    assert ledger.rows == []


@pytest.mark.filterwarnings("ignore:The generate_images method is deprecated")
def test_generated_images_are_counted(vertex, server, ledger: Recorded):
    picture = {"bytesBase64Encoded": "eA==", "mimeType": "image/png"}
    server.answers[":predict"] = {"predictions": [picture, picture]}
    vertex.models.generate_images(model="imagen-4.0-generate-001", prompt="x", config={"number_of_images": 2})
    row = ledger.row
    assert values(row, "operation", "images", "usage_source", "provider") == (
        "image_generation",
        2,
        "request",
        "gcp.vertex_ai",
    )
    assert row["cost_usd"] == Decimal("0.08")


def test_a_video_is_billed_once_when_it_is_done(vertex, server, ledger: Recorded):
    name = "projects/p/locations/l/publishers/google/models/veo-3.1-fast-generate-001/operations/op1"
    done = {"name": name, "done": True, "response": {"videos": [{"gcsUri": "u"}]}}
    server.answers[":predictLongRunning"] = {"name": name}
    server.answers[":fetchPredictOperation"] = [{"name": name}, done]
    operation = vertex.models.generate_videos(
        model="veo-3.1-fast-generate-001",
        source=types.GenerateVideosSource(prompt="x"),
        config={"duration_seconds": 6, "resolution": "1080p"},
    )
    for _ in range(4):
        operation = vertex.operations.get(operation)
    row = ledger.row
    assert values(row, "operation", "request_model", "video_output_ms", "media_size", "cost_usd") == (
        "video_generation", "veo-3.1-fast-generate-001", 6000, "1080p", Decimal("0.72"),
    )  # fmt: skip


def test_creating_a_cache_is_billed(client, server, ledger: Recorded):
    server.answers["/cachedContents"] = {"name": "cachedContents/c", "model": "models/gemini-3.5-flash", "usageMetadata": {"totalTokenCount": 5000}}  # fmt: skip
    client.caches.create(model="gemini-3.5-flash", config={"contents": "x" * 10})
    row = ledger.row
    assert values(row, "operation", "input_uncached_tokens", "price_status") == ("create_cache", 5000, "priced")


def test_a_batch_is_rows_at_the_batch_price_once(client, server, ledger: Recorded):
    batch = {
        "name": "batches/b1", "done": True,
        "metadata": {"state": "BATCH_STATE_SUCCEEDED", "createTime": "2026-11-01T10:00:00Z", "model": "models/gemini-3.5-flash"},
        "response": {"inlinedResponses": {"inlinedResponses": [{"response": {**ANSWER, "responseId": f"r{n}"}} for n in range(3)]}},
    }  # fmt: skip
    server.answers["/batches/b1"] = batch
    for _ in range(2):
        client.batches.get(name="batches/b1")
    assert [values(row, "response_id", "is_batch", "cache_read_tokens") for row in ledger.rows] == [
        (f"r{n}", True, 40) for n in range(3)
    ]
    assert {row["start_time"].isoformat() for row in ledger.rows} == {"2026-11-01T10:00:00+00:00"}


def test_an_interaction_is_a_row(client, server, ledger: Recorded):
    server.answers["/interactions"] = INTERACTION
    client.interactions.create(model="gemini-3.5-flash", input="x")
    row = ledger.row
    assert values(row, "response_id", "input_uncached_tokens", "cache_read_tokens", "output_text_tokens", "web_searches") == (
        "int_1", 63, 40, 15, 2,
    )  # fmt: skip
    assert values(row, "request_model", "outcome", "reported_total_tokens") == ("gemini-3.5-flash", "ok", 118)


def test_a_streamed_interaction_is_a_row(client, server, ledger: Recorded):
    events = [
        {"event_type": "interaction.created", "interaction": {**INTERACTION, "status": "in_progress", "usage": None}},
        {"event_type": "interaction.completed", "interaction": INTERACTION},
    ]
    server.answers["/interactions"] = sse(*((e["event_type"], e) for e in events), ("done", "[DONE]"))
    list(client.interactions.create(model="gemini-3.5-flash", input="x", stream=True))
    assert values(ledger.row, "cache_read_tokens", "outcome", "usage_source") == (40, "ok", "exact")


def test_an_asynchronous_interaction_is_a_row(client, server, ledger: Recorded):
    server.answers["/interactions"] = INTERACTION

    async def ask() -> None:
        await client.aio.interactions.create(model="gemini-3.5-flash", input="x")
        await client.aio.aclose()

    asyncio.run(ask())
    assert ledger.row["cache_read_tokens"] == 40


class Socket:
    """A live session's websocket."""

    def __init__(self, *messages: Any) -> None:
        self.messages = [json.dumps(message).encode() for message in messages]

    async def recv(self, decode: bool = False) -> bytes:
        return self.messages.pop(0)

    async def send(self, data: Any) -> None:
        """Sent."""

    async def close(self) -> None:
        """Closed."""


def test_each_turn_of_a_live_session_is_a_row(client, ledger: Recorded, monkeypatch):
    usage = {"promptTokenCount": 100, "responseTokenCount": 20, "totalTokenCount": 120, "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 20}]}  # fmt: skip
    socket = Socket({"setupComplete": {}}, {"serverContent": {"turnComplete": False}}, {"serverContent": {"turnComplete": True}, "usageMetadata": usage})  # fmt: skip

    class Connected:
        async def __aenter__(self):
            return socket

        async def __aexit__(self, *_):
            return None

    monkeypatch.setattr("google.genai.live.ws_connect", lambda *_, **__: Connected())

    async def talk() -> None:
        async with client.aio.live.connect(model="gemini-2.5-flash-native-audio-latest") as session:
            async for _ in session.receive():
                pass

    asyncio.run(talk())
    assert values(ledger.row, "request_model", "input_uncached_tokens", "output_audio_tokens", "output_text_tokens") == (
        "gemini-2.5-flash-native-audio-latest", 100, 20, 0,
    )  # fmt: skip
