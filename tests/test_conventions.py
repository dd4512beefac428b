"""Names and types of spans and metrics, against the facts of OpenTelemetry's registry (`data/genai_registry.json`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from asked_servers import OPENAI, PLAIN, Answer, ask, chat
from conftest import Recorded
from spanledger import attribution
from spanledger.capture.call_metrics import CallMetrics
from spanledger.providers import anthropic as anthropic_format
from spanledger.providers import google as google_format
from spanledger.providers import openai as openai_format
from spanledger.semconv import attributes as a
from spanledger.semconv.usage import Usage, from_attributes, to_attributes
from spanledger_clickhouse.demo.loopback_provider import Provider

REGISTRY = json.loads((Path(__file__).parent / "data/genai_registry.json").read_text())
TYPES: dict[str, Any] = {"string": str, "int": int, "double": float, "boolean": bool, "string[]": tuple}
OURS = ("spanledger.",)
"""What no convention names."""
MESSAGES: Any = [{"role": "user", "content": "how much?"}]


def wrong(attributes: dict[str, Any]) -> list[str]:
    """Attributes that are not in the registry, or of another type there."""
    return [
        f"{name}={value!r}"
        for name, value in attributes.items()
        if not name.startswith(OURS)
        and (name not in REGISTRY["attributes"] or type(value) is not TYPES[REGISTRY["attributes"][name]])
    ]


@pytest.fixture
def exported(ledger: Recorded) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    ledger.tracing.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def clients(provider: Provider) -> Iterator[tuple[openai.OpenAI, anthropic.Anthropic]]:
    with (
        openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1", max_retries=0) as gpt,
        anthropic.Anthropic(api_key="k", base_url=provider.url, max_retries=0) as claude,
    ):
        yield gpt, claude


def test_spans_have_names_and_types_of_the_registry(
    exported: InMemorySpanExporter, clients: tuple[openai.OpenAI, anthropic.Anthropic], public_host: None
):
    gpt, claude = clients
    with attribution(user="ada", feature="search", request_id="r", session="s", conversation="c"):
        gpt.chat.completions.create(model="gpt-4.1-mini", messages=MESSAGES, max_tokens=9, temperature=0.5, n=2)
        list(
            gpt.responses.create(
                model="gpt-5.4-mini", input="x", stream=True, reasoning={"effort": "low"}, previous_response_id="resp_1"
            )
        )
        gpt.embeddings.create(model="text-embedding-3-small", input="x")
        claude.messages.create(model="claude-sonnet-4-6", max_tokens=9, messages=MESSAGES)
        with pytest.raises(openai.OpenAIError):
            gpt.chat.completions.create(model="gpt-4.1-mini", messages=[{"role": "user", "content": "[500]"}])
    spans = [span for span in exported.get_finished_spans() if span.instrumentation_scope and span.instrumentation_scope.name.startswith("spanledger")]  # fmt: skip
    assert len(spans) == 5
    for span in spans:
        attributes = dict(span.attributes or {})
        assert wrong(attributes) == []
        assert attributes[a.OPERATION] in REGISTRY["operations"]
        assert span.name == f"{attributes[a.OPERATION]} {attributes[a.REQUEST_MODEL]}"
    assert spans[0].attributes[a.REQUEST_CHOICE_COUNT] == 2
    assert spans[1].attributes[a.REQUEST_REASONING_LEVEL] == "low"
    assert spans[1].attributes[a.REQUEST_PREVIOUS_RESPONSE_ID] == "resp_1"


def test_the_registry_check_can_fail():
    assert wrong({"gen_ai.usage.input_tokens": 1.5, "gen_ai.no.such": "x", "spanledger.x": 1}) == [
        "gen_ai.usage.input_tokens=1.5", "gen_ai.no.such='x'",
    ]  # fmt: skip


def test_metrics_have_names_and_units_of_the_registry(
    ledger: Recorded, clients: tuple[openai.OpenAI, anthropic.Anthropic], public_host: None, monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental/dup")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    ledger.processor._metrics = CallMetrics()
    list(clients[0].chat.completions.create(model="gpt-4.1-mini", messages=MESSAGES, stream=True))
    data = reader.get_metrics_data()
    assert data is not None
    found = {
        m.name: m
        for r in data.resource_metrics
        for s in r.scope_metrics
        for m in s.metrics
        if m.name.startswith("gen_ai.") and m.data.data_points
    }
    assert {name: metric.unit for name, metric in found.items()} == {
        name: unit for name, unit in REGISTRY["metrics"].items() if name in found
    }
    assert len(found) >= 10
    for metric in found.values():
        for point in metric.data.data_points:
            assert wrong(dict(point.attributes)) == []


@pytest.mark.parametrize(
    ("read", "path", "body", "level", "choices", "previous"),
    [
        (openai_format.request, "/v1/chat/completions", {"reasoning_effort": "high", "n": 3}, "high", 3, None),
        (openai_format.request, "/v1/responses", {"reasoning": {"effort": "low"}, "previous_response_id": "r", "n": 1}, "low", None, "r"),
        (anthropic_format.request, "/v1/messages", {"output_config": {"effort": "medium"}}, "medium", None, None),
        (google_format.request, "/v1beta/models/gemini-3.5-flash:generateContent",
         {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}, "candidateCount": 2}}, "LOW", 2, None),
        (openai_format.request, "/v1/chat/completions", {"reasoning_effort": ["x"], "n": "2", "previous_response_id": 7}, None, None, None),
    ],
)  # fmt: skip
def test_what_a_request_asks_for_is_read(
    read: Any, path: str, body: dict[str, Any], level: str | None, choices: int | None, previous: str | None
):
    request = read("POST", path, {"model": "m", **body})
    assert (request.reasoning_level, request.choice_count, request.previous_response_id) == (level, choices, previous)


def test_text_is_what_other_modalities_leave():
    usage = Usage(input=10, input_audio=5, cache_read=3, cache_read_audio=2, cache_write=4, output=7, output_audio=6)
    attributes = to_attributes(usage)
    assert (attributes[a.TEXT_INPUT_TOKENS], attributes[a.TEXT_OUTPUT_TOKENS]) == (17, 7)
    assert attributes[a.TEXT_INPUT_TOKENS] + attributes[a.AUDIO_INPUT_TOKENS] == attributes[a.INPUT_TOKENS]
    assert from_attributes(attributes) == usage
    assert a.TEXT_INPUT_TOKENS not in to_attributes(Usage(input=10, output=7))


def test_what_was_asked_for_is_in_the_row(ledger: Recorded):
    ask(OPENAI, Answer(chat("gpt-4.1-mini", PLAIN)), "gpt-4.1-mini", n=2)
    assert ledger.row["attributes"][a.REQUEST_CHOICE_COUNT] == "2"
