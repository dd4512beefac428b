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
