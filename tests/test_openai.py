"""The OpenAI SDK's call styles: each gives one row with the usage of the provider."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator

import httpx2
import openai
import pytest
from pydantic import BaseModel

from conftest import Recorded, facts, truth
from spanledger import attribution
from spanledger.pricing import quote
from spanledger.runtime.guard import failures
from spanledger_clickhouse.demo.loopback_provider import WORDS, Provider

MESSAGES = [{"role": "user", "content": "how much is it?"}]
CHAT = {"model": "gpt-4.1-mini", "messages": MESSAGES}


@pytest.fixture
def client(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1", max_retries=2) as client:
        yield client


@pytest.fixture
async def aclient(provider: Provider) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{provider.url}/v1", max_retries=2) as client:
        yield client


class Answer(BaseModel):
    text: str


def chat(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(**CHAT).choices[0].message.content == WORDS


def chat_raw(client: openai.OpenAI) -> None:
    assert client.chat.completions.with_raw_response.create(**CHAT).parse().choices[0].message.content == WORDS


def chat_raw_unparsed(client: openai.OpenAI) -> None:
    assert client.chat.completions.with_raw_response.create(**CHAT).http_response.status_code == 200


def chat_streaming_response(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert response.parse().choices[0].message.content == WORDS


def chat_streaming_response_bytes(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert WORDS.encode() in b"".join(response.iter_bytes())


def chat_parse(client: openai.OpenAI) -> None:
    # The body is no JSON of ours, so the SDK raises after a billed answer: the row must be there all the same.
    with pytest.raises(ValueError):
        client.chat.completions.parse(**CHAT, response_format=Answer)


def chat_post(client: openai.OpenAI) -> None:
    client.post("/chat/completions", body=CHAT, cast_to=object)


def chat_stream(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**CHAT, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks).strip() == WORDS


def chat_stream_with_usage(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


def chat_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**CHAT) as stream:
        for _ in stream:
            pass
    assert (stream.get_final_completion().choices[0].message.content or "").strip() == WORDS


def chat_stream_raw_lines(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        lines = list(response.iter_lines())
    assert lines.count("data: [DONE]") == 1
    assert not any('"usage":{' in line for line in lines)


def responses(client: openai.OpenAI) -> None:
    assert client.responses.create(model="gpt-5.4-mini", input="how much?").output_text == WORDS


def responses_raw(client: openai.OpenAI) -> None:
    client.responses.with_raw_response.create(model="gpt-5.4-mini", input="how much?")


def responses_stream(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="gpt-5.4-mini", input="how much?", stream=True))
    assert events[-1].type == "response.completed"


def responses_stream_helper(client: openai.OpenAI) -> None:
    with client.responses.stream(model="gpt-5.4-mini", input="how much?") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == WORDS


def responses_parse(client: openai.OpenAI) -> None:
    with pytest.raises(ValueError):
        client.responses.parse(model="gpt-5.4-mini", input="how much?", text_format=Answer)


def embeddings(client: openai.OpenAI) -> None:
    client.embeddings.create(model="text-embedding-3-small", input="how much?")


STYLES = (
    chat, chat_raw, chat_raw_unparsed, chat_streaming_response, chat_streaming_response_bytes, chat_parse, chat_post,
    chat_stream, chat_stream_with_usage, chat_stream_helper, chat_stream_raw_lines,
    responses, responses_raw, responses_stream, responses_stream_helper, responses_parse, embeddings,
)  # fmt: skip


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_a_call_is_one_row_with_the_usage_of_the_provider(
    style, client: openai.OpenAI, provider: Provider, ledger: Recorded
):
    style(client)
    [sold] = provider.sold
    assert facts(ledger.row) == truth(sold)


async def achat(client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(**CHAT)


async def achat_raw(client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.with_raw_response.create(**CHAT)


async def achat_stream(client: openai.AsyncOpenAI) -> None:
    chunks = [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True)]
    assert "".join(c.choices[0].delta.content or "" for c in chunks).strip() == WORDS


async def achat_stream_helper(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(**CHAT) as stream:
        async for _ in stream:
            pass


async def achat_stream_raw_lines(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        lines = [line async for line in response.iter_lines()]
    assert not any('"usage":{' in line for line in lines)


async def aresponses(client: openai.AsyncOpenAI) -> None:
    await client.responses.create(model="gpt-5.4-mini", input="how much?")


async def aresponses_stream(client: openai.AsyncOpenAI) -> None:
    async for _ in await client.responses.create(model="gpt-5.4-mini", input="how much?", stream=True):
        pass


async def aembeddings(client: openai.AsyncOpenAI) -> None:
    await client.embeddings.create(model="text-embedding-3-small", input="how much?")


ASYNC_STYLES = (
    achat, achat_raw, achat_stream, achat_stream_helper, achat_stream_raw_lines, aresponses, aresponses_stream, aembeddings,
)  # fmt: skip


@pytest.mark.parametrize("style", ASYNC_STYLES, ids=lambda style: style.__name__)
async def test_an_async_call_is_one_row_with_the_usage_of_the_provider(
    style, aclient, provider: Provider, ledger: Recorded
):
    await style(aclient)
    [sold] = provider.sold
    assert facts(ledger.row) == truth(sold)


def test_the_row_names_operation_and_models(client: openai.OpenAI, provider: Provider, ledger: Recorded):
    client.chat.completions.create(
        model="gpt-4.1-mini",
        messages=[{"role": "system", "content": "be brief"}, *MESSAGES],
        temperature=0.5,
        max_completion_tokens=100,
    )
    row = ledger.row
    expected = {
        "provider": "openai",
        "operation": "chat",
        "request_model": "gpt-4.1-mini",
        "response_model": "gpt-4.1-mini",
        "response_id": provider.sold[0].id,
        "server_address": "127.0.0.1",
        "service": "tests",
        "environment": "ci",
        "temperature": 0.5,
        "max_tokens": 100,
        "prompt_hash": "b0d336336bae",
        "is_streaming": False,
        "finish_reasons": ["stop"],
        "attempts": 1,
        "price_status": "priced",
        "price_key": "gpt-4.1-mini",
        "price_source": "bundled",
        "price_flags": ["proxy"],
        "scope": "spanledger.openai",
    }
    assert {name: row[name] for name in expected} == expected


@pytest.mark.usefixtures("public_host")
def test_an_unknown_model_has_no_cost_but_a_reason(client: openai.OpenAI, ledger: Recorded):
    client.chat.completions.create(model="no-such-model", messages=MESSAGES)
    row = ledger.row
    assert (row["cost_usd"], row["input_cost_usd"], row["price_status"]) == (None, None, "unpriced:no_model")
    assert b"gen_ai.usage.cost" not in ledger.lines[0]


def test_a_pricing_failure_loses_no_other_column(client: openai.OpenAI, ledger: Recorded, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ArithmeticError

    monkeypatch.setattr("spanledger.pricing.calculator.quote", broken)
    with attribution(user="ada", feature="chat", request_id="r-1"):
        client.chat.completions.create(**CHAT)
        client.chat.completions.create(**CHAT)
    assert failures.pop(("pricing a call", "ArithmeticError")) == 2
    columns = [
        (r["user_id"], r["feature"], r["request_id"], r["outcome"], r["usage_source"], r["price_status"], r["cost_usd"])
        for r in ledger.rows
    ]
    assert columns == [("ada", "chat", "r-1", "ok", "exact", "unpriced:error", None)] * 2
    assert [r["sequence"] for r in ledger.rows] == [0, 1]
    assert {r["process_id"] for r in ledger.rows} == {ledger.spool.process_id}


def test_an_unreadable_response_is_a_row(client: openai.OpenAI, ledger: Recorded, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise TypeError

    monkeypatch.setattr("spanledger.providers.openai.response", broken)
    with attribution(user="ada"):
        client.chat.completions.create(**CHAT)
    assert failures.pop(("reading what was used", "TypeError")) == 1
    row = ledger.row
    assert (row["user_id"], row["request_model"], row["usage_source"], row["price_status"]) == (
        "ada",
        CHAT["model"],
        "missing",
        "unpriced:no_usage",
    )


def test_a_self_hosted_model_has_an_explicit_cost_of_zero(client: openai.OpenAI, ledger: Recorded):
    client.chat.completions.create(model="my-llama", messages=MESSAGES)
    assert (ledger.row["cost_usd"], ledger.row["price_status"]) == (0, "self_hosted")


OTHERS = (
    "claude-sonnet-4-6", "anthropic/claude-sonnet-4-6", "claude-3-5-sonnet-latest", "gemini-2.5-flash", "gemini/gemini-2.5-pro",
    "openai/gpt-4o", "azure/gpt-4o", "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic.claude-3-haiku-20240307-v1:0",
    "mistral-large-latest", "command-r-plus", "grok-4", "deepseek-chat", "meta-llama/Llama-3.1-8B-Instruct",
    "ft:gpt-6:acme::x", "openai:gpt-4o", "anthropic:claude-sonnet-4-5", "anthropic--claude-4-sonnet", "azure-gpt-4o", "my-gpt-4o",
    "anthropic_claude-9", "gpt4o", "gpt_4o", "gpt\u20114o", "text-embedding-4", "amazon.nova-9-pro-v1:0", "qwen4-max",
    "claude-of-tomorrow", "gpt-99", "o9-mini", "sonar", "codestral-latest", "gpt-image-9",
)  # fmt: skip
OWN = (
    "my-llama", "llama3.1:8b", "mistral:7b", "gemma2:9b", "phi3", "gpt-oss:20b", "TheBloke/Llama-2-7B-GGUF", "gpt-j-6b", "gpt-2", "grok-1", "gpt-sw3",
    "base", "fast", "veolia-chat", "grokking",
)  # fmt: skip


@pytest.mark.parametrize("host", ["litellm", "127.0.0.1", "10.0.0.7", "llm.internal"])
@pytest.mark.parametrize("model", OTHERS)
def test_another_vendors_model_on_a_private_host_is_a_proxy_and_not_free(model: str, host: str):
    assert quote("openai", model, {"input": 1000}, host=host)[:2] == ("unpriced:needs_mapping", None)


@pytest.mark.parametrize("model", OWN)
def test_a_name_that_no_vendor_has_is_self_hosted(model: str):
    assert quote("openai", model, {"input": 1000}, host="vllm")[:2] == ("self_hosted", 0)


@pytest.mark.parametrize("host", ["litellm", "llm-proxy", "ai-gateway.internal", "litellm-1.prod.svc.local"])
def test_a_host_named_as_a_proxy_has_no_self_hosted_models(host: str):
    assert quote("openai", "smart", {"input": 1000}, host=host).status == "unpriced:needs_mapping"


@pytest.mark.parametrize("host", ["gateway.docker.internal", "vllm-router", "vllm.proxy.svc.local", "127.0.0.1"])
def test_a_host_with_a_name_similar_to_a_proxy_can_be_self_hosted(host: str):
    assert quote("openai", "smart", {"input": 1000}, host=host).status == "self_hosted"


def test_a_retried_call_is_one_row_with_its_attempts(client: openai.OpenAI, provider: Provider, ledger: Recorded):
    client.chat.completions.create(model="gpt-4.1-mini", messages=[{"role": "user", "content": "[429] how much?"}])
    row = ledger.row
    assert facts(row) == truth(provider.sold[0])
    assert (row["attempts"], row["attempt_status"], row["attempt_billed"]) == (2, ["429", "200"], ["no", "yes"])


def test_a_failed_call_is_a_row_that_cost_nothing_and_has_no_price(client: openai.OpenAI, ledger: Recorded):
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="gpt-4.1-mini", messages=[{"role": "user", "content": "[500]"}])
    row = ledger.row
    assert (row["outcome"], row["error_type"], row["attempt_status"]) == ("error", "500", ["500", "500", "500"])
    assert (row["cost_usd"], row["price_status"], row["usage_source"]) == (None, "not_billed", "")


def test_a_call_that_reached_no_server_is_not_billed(ledger: Recorded):
    with (
        openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1", max_retries=1) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.chat.completions.create(**CHAT)
    row = ledger.row
    assert (row["outcome"], row["error_type"]) == ("error", "APIConnectionError")
    assert (row["attempt_billed"], row["price_status"]) == (["no", "no"], "not_billed")


def test_a_call_without_a_response_is_possibly_billed(ledger: Recorded):
    def hang_up(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("no answer", request=request)

    transport = httpx2.MockTransport(hang_up)
    with (
        openai.OpenAI(api_key="k", http_client=httpx2.Client(transport=transport), max_retries=1) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        client.chat.completions.create(**CHAT)
    row = ledger.row
    assert (row["outcome"], row["error_type"]) == ("error", "APITimeoutError")
    assert (row["attempt_billed"], row["price_status"]) == (["unknown", "unknown"], "unpriced:no_usage")


def test_a_stream_left_early_is_a_row_without_usage(client: openai.OpenAI, ledger: Recorded):
    stream = client.chat.completions.create(**CHAT, stream=True)
    next(stream)
    stream.close()
    row = ledger.row
    assert (row["outcome"], row["usage_source"], row["price_status"]) == ("aborted", "missing", "unpriced:no_usage")
    assert row["cost_usd"] is None


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stream_that_is_dropped_is_a_row(client: openai.OpenAI, ledger: Recorded):
    stream = client.chat.completions.create(**CHAT, stream=True)
    next(stream)
    del stream
    gc.collect()
    assert ledger.row["outcome"] == "aborted"


def test_include_usage_false_is_respected(client: openai.OpenAI, provider: Provider, ledger: Recorded):
    list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": False}))
    row = ledger.row
    assert (row["outcome"], row["usage_source"], row["price_status"]) == ("ok", "missing", "unpriced:no_usage")


def test_the_callers_options_are_not_changed(client: openai.OpenAI, ledger: Recorded):
    body = {**CHAT, "stream": True}
    list(client.post("/chat/completions", body=body, cast_to=object, stream=True, stream_cls=openai.Stream[object]))
    assert body == {**CHAT, "stream": True}
    assert ledger.row["usage_source"] == "exact"


def test_an_unknown_endpoint_is_a_row_only_if_its_response_has_usage(client: openai.OpenAI, ledger: Recorded):
    client.post("/no/such/endpoint", body={"model": "gpt-4.1-mini"}, cast_to=object)
    client.models.list()
    assert ledger.rows == []


def test_time_to_first_chunk_is_before_the_end(client: openai.OpenAI, ledger: Recorded):
    list(client.chat.completions.create(**CHAT, stream=True))
    row = ledger.row
    assert 0 < row["time_to_first_chunk_us"] <= row["duration_us"]


def test_uninstrumenting_restores_the_sdk(client: openai.OpenAI, provider: Provider, ledger: Recorded):
    from openai._base_client import BaseClient, SyncAPIClient

    from spanledger.hooks.stainless import StainlessPatches

    assert hasattr(SyncAPIClient.request, "__wrapped__")
    original = SyncAPIClient.request.__wrapped__
    door = StainlessPatches(openai._base_client, None, None, frozenset())
    door.install()
    door.remove()
    assert SyncAPIClient.request.__wrapped__ is original
    assert BaseClient._build_request.__name__ == "_build_request"


def test_the_billed_project_is_recorded(ledger: Recorded):
    import httpx

    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    body = {"id": "c1", "object": "chat.completion", "model": "gpt-4.1-mini", "choices": [], "usage": usage}
    answer = httpx.MockTransport(lambda _: httpx.Response(200, json=body, headers={"openai-project": "proj_a"}))
    with openai.OpenAI(api_key="k", http_client=httpx.Client(transport=answer)) as client:
        client.chat.completions.create(**CHAT)
    assert ledger.row["attributes"] == {"spanledger.provider.project": "proj_a"}
