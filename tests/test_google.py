"""The Google GenAI SDK's call styles: each gives one row with the usage of the provider."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google import genai
from google.genai import errors, types
from opentelemetry import baggage, context

from conftest import Recorded, facts, truth
from spanledger_clickhouse.demo.loopback_provider import WORDS, Provider

MODEL = "gemini-3.5-flash"


@pytest.fixture
def client(provider: Provider) -> Iterator[genai.Client]:
    with genai.Client(api_key="k", http_options=types.HttpOptions(base_url=provider.url)) as client:
        yield client


def generate(client: genai.Client) -> None:
    assert client.models.generate_content(model=MODEL, contents="how much?").text == WORDS


def stream(client: genai.Client) -> None:
    chunks = list(client.models.generate_content_stream(model=MODEL, contents="how much?"))
    assert "".join(chunk.text for chunk in chunks) == WORDS.replace(" ", "")


def chat(client: genai.Client) -> None:
    assert client.chats.create(model=MODEL).send_message("how much?").text == WORDS


def chat_stream(client: genai.Client) -> None:
    list(client.chats.create(model=MODEL).send_message_stream("how much?"))


def embed(client: genai.Client) -> None:
    client.models.embed_content(model="gemini-embedding-001", contents="how much?")


def expected(sold) -> dict[str, object]:
    # embedContent answers neither a model nor an id: the request's model stands in the row.
    return truth(sold) if sold.api == "google" else {**truth(sold), "response_model": ""}


@pytest.mark.parametrize("style", [generate, stream, chat, chat_stream, embed], ids=lambda style: style.__name__)
def test_a_call_is_one_row_with_the_usage_of_the_provider(style, client, provider: Provider, ledger: Recorded):
    style(client)
    [sold] = provider.sold
    assert facts(ledger.row) == expected(sold)


async def agenerate(client: genai.Client) -> None:
    await client.aio.models.generate_content(model=MODEL, contents="how much?")


async def astream(client: genai.Client) -> None:
    async for _ in await client.aio.models.generate_content_stream(model=MODEL, contents="how much?"):
        pass


async def achat_stream(client: genai.Client) -> None:
    async for _ in await client.aio.chats.create(model=MODEL).send_message_stream("how much?"):
        pass


async def aembed(client: genai.Client) -> None:
    await client.aio.models.embed_content(model="gemini-embedding-001", contents="how much?")


@pytest.mark.parametrize("style", [agenerate, astream, achat_stream, aembed], ids=lambda style: style.__name__)
async def test_an_async_call_is_one_row_with_the_usage_of_the_provider(
    style, client, provider: Provider, ledger: Recorded
):
    await style(client)
    await client.aio.aclose()
    [sold] = provider.sold
    assert facts(ledger.row) == expected(sold)


def test_the_row_names_operation_and_models(client, provider: Provider, ledger: Recorded):
    config = types.GenerateContentConfig(temperature=0.5, max_output_tokens=100, system_instruction="be brief")
    client.models.generate_content(model=MODEL, contents="how much?", config=config)
    row = ledger.row
    expected = {
        "provider": "gcp.gemini",
        "operation": "generate_content",
        "request_model": MODEL,
        "response_model": MODEL,
        "response_id": provider.sold[0].id,
        "temperature": 0.5,
        "max_tokens": 100,
        "finish_reasons": ["STOP"],
        "prompt_hash": "b0d336336bae",
        "price_key": "gemini/gemini-3.5-flash",
    }
    assert {name: row[name] for name in expected} == expected


def test_a_stream_is_attributed_to_the_context_of_its_request(client, ledger: Recorded):
    token = context.attach(baggage.set_baggage("user.id", "ada"))
    chunks = client.models.generate_content_stream(model=MODEL, contents="how much?")
    context.detach(token)
    list(chunks)
    assert ledger.row["user_id"] == "ada"


def test_a_stream_left_early_keeps_the_usage_seen_so_far(client, provider: Provider, ledger: Recorded):
    chunks = client.models.generate_content_stream(model=MODEL, contents="how much?")
    next(chunks)
    del chunks
    row = ledger.row
    assert (row["outcome"], row["usage_source"]) == ("aborted", "partial")
    assert facts(row)["input_tokens"] == provider.sold[0].input


def test_a_retried_call_is_one_row_with_its_attempts(provider: Provider, ledger: Recorded):
    options = types.HttpOptions(
        base_url=provider.url, retry_options=types.HttpRetryOptions(attempts=3, initial_delay=0.01, max_delay=0.01)
    )
    with genai.Client(api_key="k", http_options=options) as client:
        client.models.generate_content(model=MODEL, contents="[429] how much?")
    row = ledger.row
    assert facts(row) == truth(provider.sold[0])
    assert (row["attempts"], row["attempt_status"]) == (2, ["429", "200"])


def test_a_failed_call_is_a_row(client, ledger: Recorded):
    with pytest.raises(errors.ServerError):
        client.models.generate_content(model=MODEL, contents="[500]")
    row = ledger.row
    assert (row["outcome"], row["error_type"], row["price_status"]) == ("error", "500", "not_billed")


def test_counting_tokens_is_free(client, provider: Provider, ledger: Recorded):
    client.models.count_tokens(model=MODEL, contents="how much?")
    assert [row["operation"] for row in ledger.rows] == []
