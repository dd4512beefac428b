"""Every HTTP library that an SDK may send with is instrumented: no request of an SDK carries baggage."""

from __future__ import annotations

from pathlib import Path

import pytest

from matrix.environments import python, ran
from spanledger_clickhouse.demo.loopback_provider import Provider

PACKAGES = (
    "openai",
    "anthropic",
    "google-genai",
    "aiohttp",
    "requests",
    "opentelemetry-instrumentation-aiohttp-client",
    "opentelemetry-instrumentation-httpx",
    "opentelemetry-instrumentation-requests",
    "opentelemetry-instrumentation-urllib3",
)


@pytest.mark.parametrize("style", ["sync", "async"])
@pytest.mark.parametrize("sdk", ["openai", "anthropic", "google"])
def test_no_request_of_an_sdk_carries_baggage(sdk: str, style: str, provider: Provider, tmp_path: Path):
    assert ran(python("egress", *PACKAGES), "egress.py", provider, tmp_path, sdk, style) == ["walked"]
