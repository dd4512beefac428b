"""What a call may cost at most, by the form of its body: never less than what the provider may bill."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spanledger.limits.estimate import worst_case
from spanledger.limits.estimate.request_estimate import estimate_request
from spanledger.limits.estimate.token_bound import MEDIA_TOKENS, PromptTokenBound
from spanledger.limits.estimate.worst_case import completion_count, inline_requests, max_completion_tokens
from spanledger.pricing import quote
from spanledger.providers import Provider, anthropic, google, openai

LONG = "sixteen letters " * 2000
PNG = "iVBORw0KGgo" + "A" * 100_000


def worst(provider: Provider, path: str, body: Any, name: str = "") -> int:
    """Picodollars that the door would hold for a request."""
    request = provider.request("POST", path, body)
    assert request is not None

    found = estimate_request(name or provider.NAME, request, body, 4096, replaceable=True).max_picousd
    assert found is not None
    return found


WORDS: dict[str, Any] = {
    "a tool's arguments": {"type": "tool_use", "id": "t", "name": "f", "input": {"data": LONG}},
    "deep in a tool's arguments": {"type": "tool_use", "input": {"source": {"type": "base64", "data": LONG}}},
    "a hosted tool's arguments": {"type": "server_tool_use", "input": {"url": f"https://{LONG}"}},
    "what a function was asked": {"functionCall": {"name": "f", "args": {"image_url": LONG}}},
    "what a function said": {"functionResponse": {"name": "f", "response": {"data": LONG}}},
    "a document that is text": {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": LONG}},
    "a field of no media": {"metadata": {"data": LONG}},
    "a schema": {"parameters": {"type": ["object", "null"], "properties": {"url": {"type": "string", "description": LONG}}}},
    "a name": {LONG: 1},
    "a name of signs": {"𒀀" * 8000: 1},
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_words_count_as_words_wherever_they_stand(name: str):
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
def test_a_piece_of_media_counts_as_one(name: str):
    size = PromptTokenBound({"contents": [{"parts": [MEDIA[name]]}]})
    assert (size.media, MEDIA_TOKENS <= size.tokens < MEDIA_TOKENS + 300) == (1, True)


def test_a_list_of_short_texts_is_no_shorter_than_its_json():
    schema = {"enum": [chr(97 + number % 26) for number in range(5000)]}
    assert PromptTokenBound(schema).tokens >= len(json.dumps(schema, separators=(",", ":")))


def test_what_the_caller_has_cut_into_tokens_is_so_many():
    assert PromptTokenBound({"input": [[1] * 1000]}).tokens < 1100
    assert PromptTokenBound([1, 2.5, None]).tokens >= 3
    assert PromptTokenBound({"prompt": [1] * 1000}).tokens < 1100
    asked = {"type": "tool_use", "input": {"input": [10**12] * 1000}}
    assert PromptTokenBound({"content": [asked]}).tokens >= 14_000, "these are words"


@pytest.mark.parametrize(
    ("body", "answers"),
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
def test_all_answers_that_are_asked_for_count(body: Any, answers: int):
    assert completion_count(body) == answers


IMAGE: dict[str, Any] = {"model": "gpt-image-1", "prompt": "a cat", "quality": "high", "size": "1024x1536"}


def test_an_image_costs_no_more_than_is_held_for_it():
    made = quote("openai", "gpt-image-1", {"input": 10, "output": 6208, "image_out": 6208}).total_picousd or 0
    assert worst(openai, "/v1/images/generations", IMAGE) >= made > 0
    assert worst(openai, "/v1/images/generations", {**IMAGE, "n": 4}) >= 4 * made
    one = worst(openai, "/v1/images/generations", {"model": "dall-e-2", "prompt": "a cat"})
    assert worst(openai, "/v1/images/generations", {"model": "dall-e-2", "prompt": "a cat", "n": 10}) >= 10 * one
    large = {"model": "dall-e-3", "prompt": "a cat", "quality": "hd", "size": "1024x1792"}
    assert worst(openai, "/v1/images/generations", large) >= 119_000_000_000
    imagen: dict[str, Any] = {"instances": [{"prompt": "a cat"}], "parameters": {"sampleCount": 4}}
    path = "/v1beta/models/imagen-4.0-generate-001:predict"
    assert worst(google, path, imagen) >= 4 * worst(google, path, {**imagen, "parameters": {"sampleCount": 1}})


def test_what_decides_the_price_besides_the_tokens_is_seen_in_a_plain_body():
    plain = {"model": "gpt-5.4", "messages": [], "max_tokens": 1000}
    assert worst(openai, "/v1/chat/completions", {**plain, "service_tier": "priority"}) > worst(
        openai, "/v1/chat/completions", plain
    )
    drawn = (
        quote("gcp.gemini", "gemini-2.5-flash-image", {"input": 10, "output": 1290, "image_out": 1290}).total_picousd
        or 0
    )
    assert worst(google, "/v1beta/models/gemini-2.5-flash-image:generateContent", {"contents": []}) >= drawn > 0
    spoken = {"model": "gpt-4o-audio-preview", "messages": [], "max_tokens": 1000}
    said = quote("openai", "gpt-4o-audio-preview", {"input": 10, "output": 1000, "audio_out": 1000}).total_picousd or 0
    assert worst(openai, "/v1/chat/completions", spoken) >= said > 0


def test_a_video_costs_no_more_than_is_held_for_it():
    second = quote("openai", "sora-2", {"video_output_ms": 1000}).total_picousd or 0
    assert worst(openai, "/v1/videos", {"model": "sora-2", "prompt": "a cat", "seconds": "12"}) >= 12 * second > 0
    assert worst(openai, "/v1/videos", {"model": "sora-2", "prompt": "a cat"}) >= 4 * second


def test_a_batch_in_a_file_has_nothing_to_be_capped():
    body = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"}
    request = openai.request("POST", "/v1/batches", body)
    assert request is not None
    found = estimate_request("openai", request, body, 4096, replaceable=True)
    assert (found.max_picousd, found.output_tokens) == (None, 0)


def test_a_batch_is_all_of_its_requests():
    params = {"model": "claude-sonnet-4-6", "max_tokens": 64_000, "messages": [{"role": "user", "content": "hello"}]}
    body = {"requests": [{"custom_id": str(number), "params": params} for number in range(100)]}
    assert worst(anthropic, "/v1/messages/batches", body) >= 100 * (quote("anthropic", "claude-sonnet-4-6", {"input": 5, "output": 64_000}).total_picousd or 0)  # fmt: skip
    inline = {"contents": [{"parts": [{"text": "hello"}]}], "generationConfig": {"maxOutputTokens": 1000}}
    asked = {"batch": {"inputConfig": {"requests": {"requests": [{"request": inline}, {"request": inline}]}}}}
    assert [max_completion_tokens(each, 4096) for each in inline_requests(asked)] == [1000, 1000]
    one = quote("gcp.gemini", "gemini-3.5-flash", {"input": 5, "output": 1000}).total_picousd or 0
    assert worst(google, "/v1beta/models/gemini-3.5-flash:batchGenerateContent", asked) >= 2 * one > 0
    assert worst_case.inline_requests({"requests": "x", "batch": 1}) == []
