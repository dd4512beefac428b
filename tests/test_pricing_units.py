"""Meters other than tokens (images, seconds, characters, pages, queries), and model names from real traffic."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from spanledger.pricing import quote
from spanledger.pricing.non_token_meters import pixel_dimensions, resolution_suffix
from spanledger.semconv.usage import from_attributes, from_totals, to_attributes


@pytest.mark.parametrize(
    ("provider", "model", "usage", "media", "usd", "field"),
    [
        ("openai", "gpt-image-1", {"images": 2}, ("1024x1024", "high"), "0.334", "input_cost_per_image"),
        ("openai", "gpt-image-1.5", {"images": 1}, ("1024x1536", "low"), "0.013", "input_cost_per_image"),
        ("gcp.gemini", "imagen-3.0-generate-001", {"images": 3}, ("", ""), "0.12", "output_cost_per_image"),
        ("openai", "whisper-1", {"audio_input_ms": 61_500}, ("", ""), "0.00615", "input_cost_per_second"),
        ("openai", "tts-1", {"characters": 1000}, ("", ""), "0.015", "input_cost_per_character"),
        ("openai", "sora-2", {"video_output_ms": 8000}, ("1280x720", ""), "0.8", "output_cost_per_video_per_second"),
        (
            "gcp.gemini",
            "veo-3.1-fast-generate-001",
            {"video_output_ms": 8000},
            ("1080p", ""),
            "0.96",
            "output_cost_per_second_1080p",
        ),
        ("aws.bedrock", "cohere.rerank-v3-5:0", {"queries": 3}, ("", ""), "0.006", "input_cost_per_query"),
        ("gcp.vertex_ai", "mistral-ocr-2505", {"pages": 10}, ("", ""), "0.005", "ocr_cost_per_page"),
    ],
)
def test_each_meter_is_priced_by_its_field(provider, model, usage, media, usd, field):
    price = quote(provider, model, usage, size=media[0], quality=media[1])
    [part] = price.components
    assert (f"{price.total_picousd / 1e12:g}", part.field, price.status) == (usd, field, "priced")


def test_other_meters_are_not_charged_if_tokens_are():
    both = quote("openai", "gpt-4o-transcribe", {"input": 100, "output": 10, "audio_input_ms": 60_000})
    assert {part.meter for part in both.components} == {"input", "output"}


def test_an_image_of_unpriced_size_is_unpriced_and_not_free():
    price = quote("openai", "gpt-image-1", {"images": 1}, size="640x480", quality="high")
    assert (price.total_picousd, price.status) == (None, "unpriced:no_price")


def test_training_has_no_price_in_the_table():
    assert quote("openai", "gpt-4.1-mini", {"training_tokens": 1000}).status == "unpriced:no_price"


@pytest.mark.parametrize(
    ("size", "suffix"),
    [("1920x1080", "1080p"), ("720x1280", "720p"), ("1080p", "1080p"), ("4K", "4k"), ("3840x2160", "4k"), ("1K", "1K")],
)
def test_a_size_is_a_resolution(size, suffix):
    assert resolution_suffix(size) == suffix


def test_an_image_size_that_is_not_two_numbers_is_zero():
    assert (pixel_dimensions("1024-x-768"), pixel_dimensions("auto"), pixel_dimensions("")) == (
        (1024, 768),
        (0, 0),
        (0, 0),
    )


def test_meters_survive_the_round_trip_through_attributes():
    usage = from_totals(images=2, audio_input_ms=1500, characters=12, training_tokens=9, queries=1)
    assert from_attributes(to_attributes(usage)) == usage


PROVIDERS = {"openai", "anthropic", "gcp.gemini", "gcp.vertex_ai", "azure.ai.openai", "aws.bedrock"}

UNRESOLVED = {
    "claude-3-7-sonnet": "an alias of Anthropic's that LiteLLM has never listed",
    "arn:aws:sagemaker": "a customer's own endpoint: needs a mapping",
}


def test_names_of_real_traffic_resolve():
    lines = gzip.decompress((Path(__file__).parent / "data/recorded-usage.jsonl.gz").read_bytes()).splitlines()
    names = {
        (row["provider"], row["response_model"], row["request_model"], row["extra"].get("region") or "")
        for row in map(json.loads, lines)
        if row["provider"] in PROVIDERS and row["usage"] and (row["response_model"] or row["request_model"])
    }
    missing = [
        name
        for name in sorted(names, key=str)
        if quote(name[0], name[1], {"input": 1, "output": 1}, request_model=name[2], geo=name[3]).key is None
    ]
    unexplained = [name for name in missing if not any(known in str(name) for known in UNRESOLVED)]
    assert Counter(name[0] for name in unexplained) == {}
    assert len(names) > 100
    assert len(missing) / len(names) <= 0.02
