"""Readers and folds over any JSON: they return something typed, and never raise."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from spanledger.providers import anthropic, google, openai
from spanledger.runtime import untrusted_json
from spanledger.semconv import usage
from spanledger.semconv.usage import Usage, from_attributes, to_attributes

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)

# Objects with keys of the three APIs, so that any value can be at the place that a reader reads.
KEYS = st.sampled_from(
    [
        "usage",
        "usageMetadata",
        "prompt_tokens",
        "completion_tokens",
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "choices",
        "delta",
        "index",
        "finish_reason",
        "message",
        "type",
        "response",
        "id",
        "model",
        "status",
        "output",
        "service_tier",
        "prompt_tokens_details",
        "cached_tokens",
        "cache_creation",
        "ephemeral_1h_input_tokens",
        "iterations",
        "server_tool_use",
        "web_search_requests",
        "stop_reason",
        "candidates",
        "promptTokenCount",
        "candidatesTokenCount",
        "promptTokensDetails",
        "modality",
        "tokenCount",
        "groundingMetadata",
        "messages",
        "role",
        "content",
        "text",
        "instructions",
        "system",
        "systemInstruction",
        "parts",
        "stream",
        "stream_options",
        "include_usage",
        "max_tokens",
        "temperature",
        "generationConfig",
        "maxOutputTokens",
        "cost",
        "tool_usage",
        "container_id",
        "predictions",
        "embeddings",
        "statistics",
        "token_count",
        "reasons",
        "tools",
        "searches",
        "streamed",
        "finished",
        "webSearchQueries",
        "finishReason",
        "responseId",
    ]
)
VALUES = SCALARS | st.sampled_from(["response.completed", "message_start", "message_delta", "system", "AUDIO", "stop"])
WIRE = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner), max_leaves=30)
BODIES = st.dictionaries(KEYS, WIRE)
PROVIDERS = st.sampled_from([openai, anthropic, google])


@given(JSON, st.lists(st.text(), max_size=3))
def test_readers_are_total(value, path):
    assert isinstance(untrusted_json.mapping(value, *path), dict)
    assert isinstance(untrusted_json.items(value, *path), list)
    count = untrusted_json.count(value, *path)
    assert count is None or (type(count) is int and 0 <= count <= untrusted_json.MAX_COUNT)
    label = untrusted_json.label(value, *path)
    assert label is None or (0 < len(label) <= 256 and label.isprintable())


@given(PROVIDERS, BODIES)
def test_any_body_can_be_read(provider, body):
    response = provider.response(body)
    assert response.usage is None or all(
        type(getattr(response.usage, f)) is int for f in usage.Usage._fields if f != "reported_total"
    )
    if response.raw_usage:
        json.loads(response.raw_usage)


@given(PROVIDERS, st.lists(BODIES, max_size=6))
def test_any_stream_can_be_folded(provider, events):
    body = {}
    for event in events:
        body = provider.fold(body, event)
    provider.response(body)


@given(PROVIDERS, st.lists(BODIES, min_size=1, max_size=4))
def test_folding_an_event_twice_changes_nothing(provider, events):
    once, twice = {}, {}
    for event in events:
        once = provider.fold(once, event)
        twice = provider.fold(provider.fold(twice, event), event)
    assert repr(provider.response(once)) == repr(provider.response(twice))


@given(PROVIDERS, st.sampled_from(["POST", "GET", "post"]), st.text(), JSON | BODIES)
def test_any_request_can_be_read(provider, method, path, body):
    provider.request(method, path, body)


@given(st.binary() | st.text())
def test_any_bytes_parse_to_a_document_or_to_none(data):
    untrusted_json.parse_json(data)


COUNT = st.integers(0, 10**7)


@given(
    st.builds(
        usage.from_totals,
        COUNT,
        COUNT,
        **{f: COUNT for f in usage.Usage._fields if f not in ("input", "output", "reported_total")},
    )
)
def test_meters_are_disjoint_and_survive_attributes(found: Usage):
    assert found.reasoning <= found.output
    assert from_attributes(to_attributes(found)) == found


@given(COUNT, COUNT, COUNT, COUNT, COUNT, COUNT)
def test_parts_never_exceed_the_totals(total, output, read, write, audio, reasoning):
    found = usage.from_totals(total, output, cache_read=read, cache_write=write, input_audio=audio, reasoning=reasoning)
    assert (found.total_input, found.total_output) == (total, output)
