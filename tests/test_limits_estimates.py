"""The worst case of a call by the form of its body: never less than what the provider may bill."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spanledger.limits.estimate import worst_case
from spanledger.limits.estimate.request_estimate import estimate_request
from spanledger.limits.estimate.token_bound import MEDIA_TOKENS, PromptTokenBound, body_tokens, text_tokens
from spanledger.limits.estimate.worst_case import (
    bucketed,
    completion_count,
    inline_requests,
    max_completion_tokens,
    max_cost_picousd,
    price_modifiers,
)
from spanledger.pricing import quote
from spanledger.providers import Provider, anthropic, google, openai

LONG = "sixteen letters " * 2000


PNG = "iVBORw0KGgo" + "A" * 100_000


def worst(provider: Provider, path: str, body: Any, name: str = "") -> int:
    """Picodollars that a hook reserves for a request."""
    request = provider.request("POST", path, body)
    assert request is not None
    cost = estimate_request(name or provider.NAME, request, body, 4096, replaceable=True).max_picousd
    assert cost is not None
    return cost


WORDS: dict[str, Any] = {
    "a tool's arguments": {"type": "tool_use", "id": "t", "name": "f", "input": {"data": LONG}},
    "deep in a tool's arguments": {"type": "tool_use", "input": {"source": {"type": "base64", "data": LONG}}},
    "a hosted tool's arguments": {"type": "server_tool_use", "input": {"url": f"https://{LONG}"}},
    "arguments of a function call": {"functionCall": {"name": "f", "args": {"image_url": LONG}}},
    "response of a function": {"functionResponse": {"name": "f", "response": {"data": LONG}}},
    "a document that is text": {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": LONG}},
    "a field of no media": {"metadata": {"data": LONG}},
    "a schema": {"parameters": {"type": ["object", "null"], "properties": {"url": {"type": "string", "description": LONG}}}},
    "a name": {LONG: 1},
    "a name of signs": {"𒀀" * 8000: 1},
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_text_counts_as_text_at_any_depth(name: str):
    assert PromptTokenBound({"messages": [{"role": "user", "content": [WORDS[name]]}]}).tokens >= 32_000


MEDIA: dict[str, Any] = {
    "chat": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    "chat, by address": {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    "sound": {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
    "a file": {"type": "file", "file": {"filename": "a.pdf", "file_data": PNG}},
    "responses": {"type": "input_image", "image_url": "https://example.com/a.png"},
    "a file by address": {"type": "input_file", "file_url": "https://example.com/a.pdf"},
    "anthropic": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
    "anthropic, by address": {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
    "google": {"inlineData": {"mimeType": "image/png", "data": PNG}},
    "google, by address": {"fileData": {"mimeType": "text/plain", "fileUri": "gs://bucket/a.txt"}},
    "bytes": {"inline_data": {"mime_type": "image/png", "data": b"\x89PNG"}},
}


@pytest.mark.parametrize("name", MEDIA)
def test_a_piece_of_media_counts_as_one_piece(name: str):
    size = PromptTokenBound({"contents": [{"parts": [MEDIA[name]]}]})
    assert (size.media, MEDIA_TOKENS <= size.tokens < MEDIA_TOKENS + 300) == (1, True)


def test_a_list_of_short_texts_is_no_shorter_than_its_json():
    schema = {"enum": [chr(97 + number % 26) for number in range(5000)]}
    assert PromptTokenBound(schema).tokens >= len(json.dumps(schema, separators=(",", ":")))


def test_a_prompt_of_token_ids_counts_its_ids():
    assert PromptTokenBound({"input": [[1] * 1000]}).tokens < 1100
    assert PromptTokenBound([1, 2.5, None]).tokens >= 3
    assert PromptTokenBound({"prompt": [1] * 1000}).tokens < 1100
    tool = {"type": "tool_use", "input": {"input": [10**12] * 1000}}
    assert PromptTokenBound({"content": [tool]}).tokens >= 14_000, "arguments of a tool are text"


@given(st.text(max_size=200))
def test_no_text_has_more_tokens_than_its_bound(text: str):
    assert text_tokens(text) >= len(text.encode("utf-8", "surrogatepass"))


def test_text_counts_by_its_bytes_and_media_by_the_piece():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "é" * 100}, image]}]}
    assert MEDIA_TOKENS + 200 <= body_tokens(body) < MEDIA_TOKENS + 500


def test_a_block_of_an_earlier_response_counts_by_its_text():
    from anthropic.types import TextBlock

    block = TextBlock(type="text", text="x" * 50_000)
    assert 50_000 < body_tokens({"messages": [{"role": "assistant", "content": [block]}]}) < 50_500
    page = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 100_000}}
    assert body_tokens({"messages": [{"role": "user", "content": [page]}]}) > 100_000
    nested: Any = "x"
    for _ in range(5000):
        nested = {"a": nested}
    assert body_tokens(nested) < 10_000


@pytest.mark.parametrize(
    ("body", "completions"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"best_of": 20, "n": 2}, 20),
        ({"prompt": ["a", "b"], "best_of": 3}, 6),
        ({"prompt": "a"}, 1),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"generationConfig": {"candidateCount": 4}}, 4),
        ({"parameters": {"sampleCount": 4}}, 4),
        ({"n": "x", "generationConfig": None}, 1),
        (None, 1),
    ],
)
def test_every_requested_completion_counts(body: Any, completions: int):
    assert completion_count(body) == completions


IMAGE: dict[str, Any] = {"model": "gpt-image-1", "prompt": "a cat", "quality": "high", "size": "1024x1536"}


def test_an_image_costs_no_more_than_its_reservation():
    price = quote("openai", "gpt-image-1", {"input": 10, "output": 6208, "image_out": 6208}).total_picousd or 0
    assert worst(openai, "/v1/images/generations", IMAGE) >= price > 0
    assert worst(openai, "/v1/images/generations", {**IMAGE, "n": 4}) >= 4 * price
    one = worst(openai, "/v1/images/generations", {"model": "dall-e-2", "prompt": "a cat"})
    assert worst(openai, "/v1/images/generations", {"model": "dall-e-2", "prompt": "a cat", "n": 10}) >= 10 * one
    large = {"model": "dall-e-3", "prompt": "a cat", "quality": "hd", "size": "1024x1792"}
    assert worst(openai, "/v1/images/generations", large) >= 119_000_000_000
    imagen: dict[str, Any] = {"instances": [{"prompt": "a cat"}], "parameters": {"sampleCount": 4}}
    path = "/v1beta/models/imagen-4.0-generate-001:predict"
    assert worst(google, path, imagen) >= 4 * worst(google, path, {**imagen, "parameters": {"sampleCount": 1}})


def test_price_modifiers_are_read_from_a_plain_body():
    plain = {"model": "gpt-5.4", "messages": [], "max_tokens": 1000}
    assert worst(openai, "/v1/chat/completions", {**plain, "service_tier": "priority"}) > worst(
        openai, "/v1/chat/completions", plain
    )
    image = (
        quote("gcp.gemini", "gemini-2.5-flash-image", {"input": 10, "output": 1290, "image_out": 1290}).total_picousd
        or 0
    )
    assert worst(google, "/v1beta/models/gemini-2.5-flash-image:generateContent", {"contents": []}) >= image > 0
    spoken = {"model": "gpt-4o-audio-preview", "messages": [], "max_tokens": 1000}
    audio = quote("openai", "gpt-4o-audio-preview", {"input": 10, "output": 1000, "audio_out": 1000}).total_picousd or 0
    assert worst(openai, "/v1/chat/completions", spoken) >= audio > 0


def test_a_video_costs_no_more_than_its_reservation():
    second = quote("openai", "sora-2", {"video_output_ms": 1000}).total_picousd or 0
    assert worst(openai, "/v1/videos", {"model": "sora-2", "prompt": "a cat", "seconds": "12"}) >= 12 * second > 0
    assert worst(openai, "/v1/videos", {"model": "sora-2", "prompt": "a cat"}) >= 4 * second


def test_a_batch_in_a_file_has_no_estimate():
    body = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"}
    request = openai.request("POST", "/v1/batches", body)
    assert request is not None
    estimate = estimate_request("openai", request, body, 4096, replaceable=True)
    assert (estimate.max_picousd, estimate.output_tokens) == (None, 0)


def test_a_batch_costs_all_of_its_requests():
    params = {"model": "claude-sonnet-4-6", "max_tokens": 64_000, "messages": [{"role": "user", "content": "hello"}]}
    body = {"requests": [{"custom_id": str(number), "params": params} for number in range(100)]}
    assert worst(anthropic, "/v1/messages/batches", body) >= 100 * (quote("anthropic", "claude-sonnet-4-6", {"input": 5, "output": 64_000}).total_picousd or 0)  # fmt: skip
    inline = {"contents": [{"parts": [{"text": "hello"}]}], "generationConfig": {"maxOutputTokens": 1000}}
    batch = {"batch": {"inputConfig": {"requests": {"requests": [{"request": inline}, {"request": inline}]}}}}
    assert [max_completion_tokens(request, 4096) for request in inline_requests(batch)] == [1000, 1000]
    one = quote("gcp.gemini", "gemini-3.5-flash", {"input": 5, "output": 1000}).total_picousd or 0
    assert worst(google, "/v1beta/models/gemini-3.5-flash:batchGenerateContent", batch) >= 2 * one > 0
    assert worst_case.inline_requests({"requests": "x", "batch": 1}) == []


@pytest.mark.parametrize(
    "usage",
    [
        {"input": 1000, "output": 50},
        {"input": 1000, "output": 50, "cache_read": 900},
        {"input": 1000, "output": 50, "cache_write": 1000},
        {"input": 1000, "output": 50, "cache_write": 1000, "cache_write_1h": 1000},
        {"input": 1000, "output": 50, "cache_write_12h": 1000},
        {"input": 1000, "output": 50, "reasoning": 50},
    ],
)
@pytest.mark.parametrize(
    ("provider", "model"),
    [("anthropic", "claude-sonnet-4-6"), ("openai", "gpt-5.4-mini"), ("gcp.gemini", "gemini-3.5-flash")],
)
def test_no_usage_costs_more_than_the_estimate(usage, provider, model):
    total = quote(provider, model, usage).total_picousd
    estimate = max_cost_picousd(provider, model, 1000, 50)
    assert estimate is not None
    assert total is None or total <= estimate


@pytest.mark.parametrize(
    ("provider", "model", "body", "usage"),
    [
        ("gcp.gemini", "gemini-2.5-flash-image", {}, {"input": 10, "output": 1290, "image_out": 1290}),
        ("openai", "gpt-4o-audio-preview", {"modalities": ["text", "audio"]}, {"input": 10, "output": 1000, "audio_out": 1000}),
        ("anthropic", "claude-opus-4-6", {"inference_geo": "us"}, {"input": 1000, "output": 50, "cache_write": 1000, "cache_write_1h": 1000}),
    ],
)  # fmt: skip
def test_no_kind_of_output_costs_more_than_the_estimate(
    provider: str, model: str, body: dict[str, Any], usage: dict[str, int]
):
    total = quote(provider, model, usage, geo=body.get("inference_geo", "")).total_picousd
    estimate = max_cost_picousd(
        provider, model, usage["input"], usage["output"], price_modifiers(body, model, None, media=False)
    )
    assert total is not None
    assert estimate is not None
    assert total <= estimate


@given(st.integers(0, 10**9))
def test_rounding_up_adds_a_thirty_second_at_most(tokens: int):
    assert tokens <= bucketed(tokens) <= tokens + tokens // 32 + 1
