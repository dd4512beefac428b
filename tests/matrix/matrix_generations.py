"""Three generations of the SDKs and the newest: exactly one row for each billed answer, usage exact."""

from __future__ import annotations

import pytest

from matrix.environments import agree, python, ran
from spanledger_clickhouse.demo.loopback_provider import Provider

GENERATIONS = {
    "openai": ("1.40.0", "1.109.1", "2.54.0", "3.0.0", "newest"),
    "anthropic": ("0.39.0", "0.84.0", "1.17.0", "2.0.0", "newest"),
    "google": ("1.20.0", "1.75.0", "2.34.0", "3.0.0", "newest"),
}
PACKAGES = {"openai": "openai", "anthropic": "anthropic", "google": "google-genai"}
FEWEST = {"openai": 13, "anthropic": 11, "google": 6}
"""How many styles even the oldest generation has."""


def test_googles_asynchronous_calls_over_aiohttp_are_rows_too(provider: Provider, tmp_path):
    styles = ran(python("google-aiohttp", "google-genai", "aiohttp"), "generations.py", provider, tmp_path, "google")
    assert {"async_generate", "async_stream"} <= set(styles)
    agree(provider, tmp_path)


@pytest.mark.parametrize(
    ("sdk", "version"), [(sdk, version) for sdk, versions in GENERATIONS.items() for version in versions]
)
def test_every_style_is_one_row(sdk: str, version: str, provider: Provider, tmp_path):
    package = PACKAGES[sdk] if version == "newest" else f"{PACKAGES[sdk]}=={version}"
    # httpx 0.28 dropped an argument that the oldest clients still pass.
    old = ["httpx<0.28"] if version in ("1.40.0", "0.39.0") else []
    styles = ran(python(f"{sdk}-{version}", package, *old), "generations.py", provider, tmp_path, sdk)
    assert len(styles) >= FEWEST[sdk], styles
    agree(provider, tmp_path)
    assert len(provider.sold) == len(styles)
