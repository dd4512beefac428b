"""Spans in the words of other back ends: what each would read is what the ledger has."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from conftest import RESOURCE, Recorded
from programs import environment
from spanledger.capture.processor import LedgerProcessor
from spanledger.runtime import settings
from spanledger.semconv import vendors
from spanledger.semconv.usage import Usage
from spanledger.semconv.vendors import NAMES, VENDORS, quantities, translator
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.rows.rows import COLUMNS, rows

CHAT: dict[str, Any] = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "how much?"}]}


def langfuse(span: dict[str, Any]) -> tuple[float, float, float]:
    """OtelIngestionProcessor: usage_details and cost_details win; the total is theirs, or the sum of the members."""
    usage, cost = (json.loads(span[f"langfuse.observation.{kind}_details"]) for kind in ("usage", "cost"))
    inputs = sum(count for name, count in usage.items() if name.startswith("input"))
    outputs = sum(count for name, count in usage.items() if name.startswith("output"))
    assert usage["total"] == inputs + outputs
    assert abs(sum(amount for name, amount in cost.items() if name != "total") - cost["total"]) < 1e-12
    return inputs, outputs, cost["total"]


def phoenix(span: dict[str, Any]) -> tuple[float, float, float]:
    """OpenInference: inclusive counts, details are parts."""
    assert span["openinference.span.kind"] == "LLM"
    assert abs(span["llm.cost.prompt"] + span["llm.cost.completion"] - span["llm.cost.total"]) < 1e-12
    assert span["llm.token_count.prompt"] + span["llm.token_count.completion"] == span["llm.token_count.total"]
    return span["llm.token_count.prompt"], span["llm.token_count.completion"], span["llm.cost.total"]


def conventions(cost: str) -> Any:
    """Those that read the conventions' inclusive tokens, with a name of their own for the cost."""
    return lambda span: (span["gen_ai.usage.input_tokens"], span["gen_ai.usage.output_tokens"], span[cost])


READERS: dict[str, Any] = {
    "langfuse": langfuse, "phoenix": phoenix, "openlit": conventions("gen_ai.usage.cost"), "signoz": conventions("gen_ai.usage.cost"),
    "logfire": conventions("operation.cost"), "datadog": conventions("gen_ai.usage.cost"),
}  # fmt: skip


@pytest.fixture
def exported(ledger: Recorded) -> InMemorySpanExporter:
    """What the application's own back end gets, with every vendor's names."""
    exporter = InMemorySpanExporter()
    ledger.tracing = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    ledger.processor = LedgerProcessor(ledger.spool, also_for=tuple(VENDORS))
    ledger.tracing.add_span_processor(ledger.processor)
    ledger.tracing.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def client(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
        yield client


@pytest.mark.parametrize("vendor", VENDORS)
def test_tokens_and_cost_there_are_those_of_the_ledger(
    vendor: str, ledger: Recorded, exported: InMemorySpanExporter, client: openai.OpenAI, public_host: None
):
    client.chat.completions.create(**CHAT)
    list(client.chat.completions.create(**CHAT, stream=True))
    spans = [dict(span.attributes or {}) for span in exported.get_finished_spans()]
    for span, row in zip(spans, ledger.rows, strict=True):
        inputs, outputs, cost = READERS[vendor](span)
        assert inputs == row["input_uncached_tokens"] + row["cache_read_tokens"] + row["cache_write_tokens"]
        assert outputs == row["output_text_tokens"]
        assert abs(cost - float(row["cost_usd"])) < 1e-12
        assert cost > 0


def test_rows_have_none_of_their_names(ledger: Recorded, exported: InMemorySpanExporter, client: openai.OpenAI):
    client.chat.completions.create(**CHAT)
    [span] = exported.get_finished_spans()
    assert NAMES & set(span.attributes or {})
    assert not NAMES & set(ledger.row["attributes"])
    assert not any(f'"{name}"'.encode() in line for name in NAMES for line in ledger.lines)


def test_parts_are_disjoint_where_a_back_end_adds_them_up():
    usage = Usage(input=100, cache_read=1000, cache_write=40, cache_write_1h=10, output=300, reasoning=200)
    made = translator(("langfuse",))({}, usage)
    assert json.loads(made["langfuse.observation.usage_details"]) == {
        "input": 100, "input_cached_tokens": 1000, "input_cache_creation": 50, "output": 100, "output_reasoning_tokens": 200, "total": 1450,
    }  # fmt: skip
    assert "langfuse.observation.cost_details" not in made


def test_a_free_call_is_said_to_be_free():
    facts = dict.fromkeys(vendors.COSTS.values(), 0)
    made = translator(("langfuse", "openlit"))(facts, Usage(input=1))
    assert json.loads(made["langfuse.observation.cost_details"])["total"] == 0
    assert made["gen_ai.usage.cost"] == 0


def test_a_row_that_grows_is_said_by_what_it_adds():
    facts: dict[str, Any] = {"spanledger.cost.total_picousd": 750, "spanledger.cost.counted_picousd": 500}
    assert translator(("openlit",))(facts, None) == {"gen_ai.usage.cost": 250e-12}


def test_what_is_not_known_is_not_said():
    assert quantities({}, None) == {}
    assert translator(("openlit", "logfire", "signoz"))({}, None) == {}


def test_the_setting_knows_every_back_end():
    assert settings.LISTS["also_for"] == tuple(VENDORS)


def test_every_name_of_a_mapping_is_a_quantity():
    facts: dict[str, Any] = dict.fromkeys(vendors.COSTS.values(), 1)
    facts["gen_ai.response.time_to_first_chunk"] = 0.1
    known = quantities(facts, Usage(input=1))
    for name, vendor in VENDORS.items():
        used = {*vendor.attributes.values(), *(q for members in vendor.objects.values() for q in members.values())}
        assert used <= set(known), name
        assert vendor.source


BOTH = """
import anthropic, openai
openai.OpenAI(api_key="k", max_retries=0).embeddings.create(model="text-embedding-3-small", input="hello")
anthropic.Anthropic(api_key="k", max_retries=0).messages.create(
    model="claude-sonnet-4-6", max_tokens=9, messages=[{"role": "user", "content": "hello"}])
"""


@pytest.mark.parametrize(
    ("spans", "exported"),
    [
        ("all", {"spanledger.openai", "spanledger.anthropic", "com.anthropic.sdk.python"}),
        ("ours-only", {"spanledger.openai", "spanledger.anthropic"}),
        ("ledger-only", {"com.anthropic.sdk.python"}),
    ],
)
def test_the_application_chooses_which_spans_of_a_call_are_exported(
    spans: str, exported: set[str], provider: Provider, tmp_path: Path
):
    code = f"""
import json
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
memory = InMemorySpanExporter()
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(memory))
{BOTH}
print(json.dumps(sorted({{span.instrumentation_scope.name for span in memory.get_finished_spans()}} - {{"opentelemetry.instrumentation.httpx"}})))
"""
    env = environment(provider, tmp_path, SPANLEDGER_SPANS=spans, OTEL_SERVICE_NAME="shop", OTEL_TRACES_EXPORTER="none")
    ran = subprocess.run(
        ["opentelemetry-instrument", "python", "-c", code],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(json.loads(ran.stdout)) == exported, ran.stderr
    [file] = (tmp_path / "spanledger/spool").glob("*.jsonl")
    recorded = [dict(zip(COLUMNS, row, strict=True)) for line in file.read_bytes().splitlines() for row in rows(line)]
    assert [row["service"] for row in recorded] == ["shop", "shop"]
