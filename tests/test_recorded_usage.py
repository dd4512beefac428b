"""Usage objects from real API traffic: the meters sum to the total of the provider, if it reports one."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

from spanledger.providers import anthropic, google, openai

RECORDED = [
    json.loads(line)
    for line in gzip.decompress((Path(__file__).parent / "data/recorded-usage.jsonl.gz").read_bytes()).splitlines()
]

READERS = {
    "chat.completions": (openai, "usage"),
    "/chat/completions": (openai, "usage"),
    "responses": (openai, "usage"),
    "embeddings": (openai, "usage"),
    "messages": (anthropic, "usage"),
    "generateContent": (google, "usageMetadata"),
    "streamGenerateContent": (google, "usageMetadata"),
}


def reader(row):
    flavour = row["extra"].get("api_flavor") or row["endpoint"] or ""
    if row["provider"] == "gcp.gemini" and "embeddings" in flavour:
        return None
    return next((found for name, found in READERS.items() if name in flavour), None)


def reported_total(usage):
    return usage.get("total_tokens", usage.get("totalTokenCount"))


def readable():
    for row in RECORDED:
        found = reader(row)
        if found and row["usage"]:
            yield row, found[0].response({found[1]: row["usage"]}).usage


def test_every_recorded_usage_of_the_three_apis_is_read():
    read = list(readable())
    assert len(read) > 1100
    assert [row["usage"] for row, usage in read if usage is None and reported_total(row["usage"])] == []


def test_the_meters_sum_to_the_providers_total():
    misses = [
        (row["provider"], row["usage"])
        for row, usage in readable()
        if usage is not None
        and reported_total(row["usage"]) is not None
        and usage.total != reported_total(row["usage"])
    ]
    assert misses == []


def test_the_corpus_covers_cache_reasoning_and_modalities():
    seen = Counter(
        meter
        for _, usage in readable()
        if usage is not None
        for meter in (
            "cache_read",
            "cache_write",
            "cache_write_1h",
            "reasoning",
            "input_audio",
            "input_image",
            "output_image",
        )
        if getattr(usage, meter)
    )
    assert all(seen[meter] for meter in ("cache_read", "cache_write", "reasoning", "input_image", "output_image")), seen
