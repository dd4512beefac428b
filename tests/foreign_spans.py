"""Spans of LLM calls as other instrumentors record them, and what each call costs."""

from __future__ import annotations

import base64
import json
import time
from decimal import Decimal
from typing import Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from spanledger.pricing import quote
from spanledger.semconv.usage import from_totals
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.rows.otlp import Span

NOW = time.time_ns()


def foreign(
    scope: str = "opentelemetry.util.genai.handler",
    span_id: str = "1" * 16,
    parent: str = "",
    start: int = NOW,
    **attributes: Any,
) -> Span:
    """A call that another instrumentor recorded: 1,000 input tokens, 100 of output, unless the arguments differ."""
    values = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4.1-mini",
        "gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 100, "gen_ai.response.id": f"resp-{span_id}",
        **{name.replace("__", "."): value for name, value in attributes.items()},
    }  # fmt: skip
    return Span(scope, {"service.name": "shop"}, {k: v for k, v in values.items() if v is not None},
                "a" * 32, span_id, parent, "chat", start, start + 10**9, False)  # fmt: skip


def body(*spans: Span) -> bytes:
    """An OTLP JSON request."""
    return json.dumps(
        {"resourceSpans": [part for s in spans for part in json.loads(otlp.to_json_line(s))["resourceSpans"]]}
    ).encode()


def protobuf(*spans: Span) -> bytes:
    """An OTLP protobuf request."""
    document = json.loads(body(*spans))
    for part in document["resourceSpans"]:
        for span in part["scopeSpans"][0]["spans"]:  # protobuf's own JSON has ids in base64
            for name in ("traceId", "spanId", "parentSpanId"):
                span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    return ParseDict(document, ExportTraceServiceRequest()).SerializeToString()


def cost(model: str = "gpt-4.1-mini", provider: str = "openai", **usage: int) -> Decimal:
    total = quote(provider, model, from_totals(**usage)).total_picousd
    assert total is not None
    return Decimal(total).scaleb(-12)


CACHED = {"input": 1000, "cache_read": 400, "cache_write": 200, "output": 100}
CONVENTIONS: dict[str, tuple[Span, Decimal]] = {
    "official": (
        foreign("opentelemetry.util.genai.handler", gen_ai__provider__name="anthropic", gen_ai__request__model="claude-sonnet-4-5",
                **{"gen_ai.usage.cache_read.input_tokens": 400, "gen_ai.usage.cache_write.input_tokens": 200}),
        cost("claude-sonnet-4-5", "anthropic", **CACHED),
    ),
    "openllmetry": (
        foreign("opentelemetry.instrumentation.anthropic", gen_ai__provider__name=None, gen_ai__system="Anthropic", gen_ai__request__model="claude-sonnet-4-5",
                **{"gen_ai.usage.cache_read.input_tokens": 400, "gen_ai.usage.cache_creation.input_tokens": 200}),
        cost("claude-sonnet-4-5", "anthropic", **CACHED),
    ),
    "openllmetry of 2024": (
        foreign("opentelemetry.instrumentation.openai.v1", gen_ai__operation__name=None, gen_ai__provider__name=None, gen_ai__system="OpenAI", llm__request__type="chat",
                **{"gen_ai.usage.input_tokens": None, "gen_ai.usage.output_tokens": None, "gen_ai.usage.prompt_tokens": 1000, "gen_ai.usage.completion_tokens": 100}),
        cost(input=1000, output=100),
    ),
    "openllmetry, Gemini": (
        foreign("opentelemetry.instrumentation.google_generativeai", gen_ai__provider__name="gcp.gen_ai", gen_ai__request__model="gemini-2.5-flash",
                **{"gen_ai.usage.total_tokens": 1300}),
        cost("gemini-2.5-flash", "gcp.gemini", input=1000, output=300),
    ),
    "openinference": (
        Span("openinference.instrumentation.anthropic", {}, {
            "openinference.span.kind": "LLM", "llm.provider": "anthropic", "llm.system": "anthropic", "llm.model_name": "claude-sonnet-4-5",
            "llm.token_count.prompt": 1000, "llm.token_count.completion": 100, "llm.token_count.prompt_details.cache_read": 400,
            "llm.token_count.prompt_details.cache_write": 200, "input.value": "SECRET", "llm.input_messages.0.message.content": "SECRET",
        }, "a" * 32, "1" * 16, "", "x", NOW, NOW, False),
        cost("claude-sonnet-4-5", "anthropic", **CACHED),
    ),
    "openlit": (  # its input leaves the cache out
        foreign("openlit.otel.tracing", gen_ai__provider__name="anthropic", gen_ai__request__model="claude-sonnet-4-5",
                **{"gen_ai.usage.input_tokens": 400, "gen_ai.usage.cache_read.input_tokens": 400, "gen_ai.usage.cache_creation.input_tokens": 200}),
        cost("claude-sonnet-4-5", "anthropic", **CACHED),
    ),
    "openlit, Gemini": (
        foreign("openlit.otel.tracing", gen_ai__provider__name="gemini", gen_ai__request__model="gemini-2.5-flash", **{"gen_ai.usage.reasoning_tokens": 200}),
        cost("gemini-2.5-flash", "gcp.gemini", input=1000, output=300),
    ),
    "openllmetry, Bedrock": (  # so does this one's
        foreign("opentelemetry.instrumentation.bedrock", gen_ai__provider__name="aws.bedrock", gen_ai__request__model="anthropic.claude-3-5-sonnet-20241022-v2:0",
                **{"gen_ai.usage.input_tokens": 600, "gen_ai.usage.cache_read.input_tokens": 400}),
        cost("anthropic.claude-3-5-sonnet-20241022-v2:0", "aws.bedrock", input=1000, cache_read=400, output=100),
    ),
    "Azure, by its host": (
        foreign(gen_ai__request__model="gpt-4o", server__address="shop.openai.azure.com"),
        cost("gpt-4o", "azure.ai.openai", input=1000, output=100),
    ),
    "official, interactions": (
        foreign("opentelemetry.instrumentation.google_genai", gen_ai__operation__name="interactions.create", gen_ai__provider__name="gemini",
                gen_ai__request__model="gemini-2.5-flash", **{"gen_ai.usage.reasoning.output_tokens": 200}),
        cost("gemini-2.5-flash", "gcp.gemini", input=1000, output=300),
    ),
    "pydantic-ai": (
        foreign("pydantic-ai", **{"gen_ai.usage.details.cache_read_tokens": 400, "operation.cost": 0.5}),
        cost(input=1000, cache_read=400, output=100),
    ),
    "logfire": (foreign("logfire.openai", request_data='{"messages": "SECRET"}'), cost(input=1000, output=100)),
    "the SDK's own": (
        foreign("com.anthropic.sdk.python", gen_ai__provider__name="anthropic", gen_ai__request__model="claude-sonnet-4-5",
                **{"gen_ai.usage.cache_read.input_tokens": 400, "gen_ai.usage.cache_write.input_tokens": 200, "anthropic.usage.cache_creation.ephemeral_1h_input_tokens": 200}),
        cost("claude-sonnet-4-5", "anthropic", input=1000, cache_read=400, cache_write_1h=200, output=100),
    ),
}  # fmt: skip


def varint(value: int) -> bytes:
    """A number in protobuf's wire format."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field in protobuf's wire format."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def in_a_span(attributes: bytes) -> bytes:
    """A request of one span with these encoded fields."""
    return field(1, field(2, field(2, attributes)))
