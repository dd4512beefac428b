"""Frameworks that stand on the SDKs, and other instrumentors beside ours: the same rows."""

from __future__ import annotations

import pytest

from matrix.environments import agree, python, ran
from spanledger_clickhouse.demo.loopback_provider import Provider

FRAMEWORKS = {
    "langchain-openai": (("langchain-openai",), 4),
    "langchain-anthropic": (("langchain-anthropic",), 2),
    "langchain-google-genai": (("langchain-google-genai",), 2),
    "llama-index": (("llama-index-llms-openai",), 2),
    "instructor": (("instructor",), 1),
    "pydantic-ai": (("pydantic-ai-slim[openai]",), 2),
    "openai-agents": (("openai-agents",), 1),
    "litellm": (("litellm>=1.109,!=1.107.*",), 1),
}


WITHOUT_SDK = {
    "litellm-anthropic": (("litellm>=1.109,!=1.107.*",), "anthropic", 4),
    "litellm-gemini": (("litellm>=1.109,!=1.107.*",), "gcp.gemini", 2),
    "dspy": (("dspy", "litellm>=1.109,!=1.107.*"), "anthropic", 1),
    "aiohttp-client": (("aiohttp",), "anthropic", 3),
    "mistral": (("mistralai",), "mistral_ai", 1),
    "groq": (("groq",), "groq", 2),
    "botocore": (("boto3",), "aws.bedrock", 1),
}
"""Clients that send their requests without any of the three SDKs: packages, whom the host stands for, calls."""


@pytest.mark.parametrize("client", WITHOUT_SDK)
def test_calls_without_an_sdk_are_rows(client: str, provider: Provider, tmp_path):
    packages, serves, calls = WITHOUT_SDK[client]
    ran(python(client, *packages), "frameworks.py", provider, tmp_path, client, serves=serves)
    assert len(provider.sold) == calls
    agree(provider, tmp_path)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_calls_through_a_framework_are_rows(framework: str, provider: Provider, tmp_path):
    packages, calls = FRAMEWORKS[framework]
    ran(python(framework, *packages), "frameworks.py", provider, tmp_path, framework)
    assert len(provider.sold) == calls
    agree(provider, tmp_path)


OTHERS = {
    "openllmetry": ("opentelemetry-instrumentation-openai",),
    "openinference": ("openinference-instrumentation-openai",),
    "official": ("opentelemetry-instrumentation-genai-openai",),
    "logfire": ("logfire",),
}


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("other", OTHERS)
def test_another_instrumentor_changes_no_row_and_keeps_its_spans(other: str, order: str, provider: Provider, tmp_path):
    interpreter = python(f"beside-{other}", "openai<3", *OTHERS[other])
    ours, theirs = ran(interpreter, "coexistence.py", provider, tmp_path, other, order, instrument=False)
    agree(provider, tmp_path)
    assert (int(ours), len(provider.sold)) == (3, 3)
    assert int(theirs) >= 3
