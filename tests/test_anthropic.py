"""The Anthropic SDK's call styles: each gives one row with the usage of the provider."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anthropic
import pytest

from conftest import Recorded, facts, truth
from spanledger_clickhouse.demo.loopback_provider import WORDS, Provider

CALL = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "how much is it?"}],
}


@pytest.fixture
def client(provider: Provider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="k", base_url=provider.url) as client:
        yield client


@pytest.fixture
async def aclient(provider: Provider) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key="k", base_url=provider.url) as client:
        yield client


def create(client: anthropic.Anthropic) -> None:
    assert client.messages.create(**CALL).content[0].text == WORDS


def beta_create(client: anthropic.Anthropic) -> None:
    client.beta.messages.create(**CALL)


def raw(client: anthropic.Anthropic) -> None:
    assert client.messages.with_raw_response.create(**CALL).parse().content[0].text == WORDS


def raw_unparsed(client: anthropic.Anthropic) -> None:
    client.messages.with_raw_response.create(**CALL)


def stream(client: anthropic.Anthropic) -> None:
    assert [event.type for event in client.messages.create(**CALL, stream=True)][-1] == "message_stop"


def helper(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**CALL) as stream:
        assert "".join(stream.text_stream) == WORDS.replace(" ", "")


def raw_lines(client: anthropic.Anthropic) -> None:
    with client.messages.with_streaming_response.create(**CALL, stream=True) as response:
        assert "event: message_stop" in list(response.iter_lines())


STYLES = (create, beta_create, raw, raw_unparsed, stream, helper, raw_lines)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_a_call_is_one_row_with_the_usage_of_the_provider(style, client, provider: Provider, ledger: Recorded):
    style(client)
    [sold] = provider.sold
    assert facts(ledger.row) == truth(sold)


async def acreate(client: anthropic.AsyncAnthropic) -> None:
    await client.messages.create(**CALL)


async def astream(client: anthropic.AsyncAnthropic) -> None:
    async for _ in await client.messages.create(**CALL, stream=True):
        pass


async def ahelper(client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(**CALL) as stream:
        assert (await stream.get_final_message()).stop_reason == "end_turn"


@pytest.mark.parametrize("style", [acreate, astream, ahelper], ids=lambda style: style.__name__)
async def test_an_async_call_is_one_row_with_the_usage_of_the_provider(
    style, aclient, provider: Provider, ledger: Recorded
):
    await style(aclient)
    [sold] = provider.sold
    assert facts(ledger.row) == truth(sold)


def test_the_row_names_operation_and_models(client, provider: Provider, ledger: Recorded):
    client.messages.create(**CALL, system=[{"type": "text", "text": "be brief"}])
    row = ledger.row
    expected = {
        "provider": "anthropic",
        "operation": "chat",
        "request_model": "claude-sonnet-4-6",
        "response_id": provider.sold[0].id,
        "service_tier": "standard",
        "inference_geo": "global",
        "max_tokens": 100,
        "finish_reasons": ["end_turn"],
        "prompt_hash": "b0d336336bae",
        "price_key": "claude-sonnet-4-6",
    }
    assert {name: row[name] for name in expected} == expected


def test_a_stream_left_early_keeps_the_usage_seen_so_far(client, provider: Provider, ledger: Recorded):
    with client.messages.stream(**CALL) as stream:
        next(iter(stream))
    row, sold = ledger.row, provider.sold[0]
    assert (row["outcome"], row["usage_source"]) == ("aborted", "partial")
    assert (facts(row)["input_tokens"], row["output_text_tokens"]) == (sold.input, 1)


def test_a_retried_call_is_one_row_with_its_attempts(client, provider: Provider, ledger: Recorded):
    client.messages.create(**{**CALL, "messages": [{"role": "user", "content": "[429] how much?"}]})
    row = ledger.row
    assert facts(row) == truth(provider.sold[0])
    assert (row["attempts"], row["attempt_status"]) == (2, ["429", "200"])


def test_middleware_that_sends_twice_is_two_rows(provider: Provider, ledger: Recorded):
    def twice(request, call_next):
        call_next(request)
        return call_next(request)

    with anthropic.Anthropic(api_key="k", base_url=provider.url, middleware=[twice]) as client:
        client.messages.create(**CALL)
    assert [row["response_id"] for row in ledger.rows] == [sold.id for sold in provider.sold]
    assert len(provider.sold) == 2
    assert len({row["span_id"] for row in ledger.rows}) == 2


def test_counting_tokens_is_free(client, ledger: Recorded):
    client.post("/v1/messages/count_tokens", body=CALL, cast_to=object)
    assert ledger.rows == []
