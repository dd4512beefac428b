"""Which spans are calls, which of several spans of one call becomes its row, and its price."""

from __future__ import annotations

import json
from typing import Any

import pytest

from foreign_spans import CONVENTIONS, NOW, foreign, protobuf
from spanledger.semconv import attributes as a
from spanledger_clickhouse.database import insert as writer
from spanledger_clickhouse.gateway import dedup
from spanledger_clickhouse.gateway.dedup import Batch, SpanDeduplicator
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.rows.otlp import Span


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_call_of_another_instrumentor_is_priced_by_its_conventions(name: str):
    span, expected = CONVENTIONS[name]
    (entry,) = SpanDeduplicator().classify([Batch("", [span])]).entries
    row = dict(zip(writer.COLUMN_NAMES, entry.contents.rows[0], strict=True))
    assert (row["cost_usd"], row["price_status"], row["source"]) == (expected, "priced", "otlp")
    assert "SECRET" not in repr(entry)


def priced(**attributes: object) -> tuple[object, ...]:
    span = foreign("opentelemetry.instrumentation.openai.v1", "1" * 16, **attributes)
    (entry,) = SpanDeduplicator().classify([Batch("", [span])]).entries
    row = dict(zip(writer.COLUMN_NAMES, entry.contents.rows[0], strict=True))
    return row["input_uncached_tokens"], row["cost_usd"], row["price_status"], row["usage_source"]


@pytest.mark.parametrize("count", ["1000", 1000.0])
def test_a_count_sent_as_text_or_double_is_exact(count: object):
    assert priced(**{a.INPUT_TOKENS: count}) == priced(**{a.INPUT_TOKENS: 1000})
    assert priced(**{a.INPUT_TOKENS: count})[2:] == ("priced", "exact")


@pytest.mark.parametrize("count", [-5, 2**32, 10.5, "many", "-5", "9" * 30, True, float("nan"), float("inf"), [1]])
def test_a_count_that_is_not_one_makes_the_call_unpriced_and_not_free(count: object):
    assert priced(**{a.INPUT_TOKENS: count}) == (0, None, "unpriced:no_usage", "missing")
    assert priced(**{a.CACHE_READ_TOKENS: count}) == (0, None, "unpriced:no_usage", "missing")


def ids(
    *spans: Span, sorter: SpanDeduplicator | None = None, committed: Any = None
) -> tuple[list[str], dict[str, int]]:
    sorter = sorter or SpanDeduplicator()
    result = sorter.classify([Batch("", spans)], lambda _: committed or {})
    sorter.remember_committed(result.entries)
    return sorted(entry.span.span_id for entry in result.entries), dict(result.dropped)


def test_of_nested_calls_the_innermost_is_the_row():
    outer = foreign("pydantic-ai", "1" * 16, **{"gen_ai.response.id": None})
    between = Span("app", {}, {}, "a" * 32, "2" * 16, "1" * 16, "retry", NOW, NOW, False)
    inner = foreign("opentelemetry.instrumentation.openai.v1", "3" * 16, parent="2" * 16)
    assert ids(outer, between, inner) == (["3" * 16], {"not_a_call": 1, "wrapper": 1})
    sorter = SpanDeduplicator()  # inner spans end first, and may arrive in an earlier batch
    assert ids(between, inner, sorter=sorter)[0] == ["3" * 16]
    assert ids(outer, sorter=sorter) == ([], {"wrapper": 1})


def test_a_response_is_one_row_whichever_instrumentors_report_it():
    ours = foreign(
        "spanledger.openai",
        "1" * 16,
        **{"gen_ai.response.id": "chatcmpl-0123456789", a.PRICE_STATUS: "priced", a.COST_TOTAL: 5},
    )
    theirs = foreign("logfire.openai", "2" * 16, **{"gen_ai.response.id": "chatcmpl-0123456789"})
    again = foreign("openlit.otel.tracing", "3" * 16, **{"gen_ai.response.id": "chatcmpl-0123456789"})
    assert ids(theirs, again, ours) == (["1" * 16], {"same_response": 2})
    committed = {("", "openai", "chatcmpl-0123456789"): ("b" * 32, "9" * 16)}  # the ledger has it
    assert ids(theirs, committed=committed) == ([], {"same_response": 1})


def test_a_tenant_cannot_hide_another_tenants_calls():
    committed = {("mallory", "openai", "chatcmpl-0123456789"): ("b" * 32, "9" * 16)}
    sorter = SpanDeduplicator()
    for tenant, span in (("mallory", "1"), ("acme", "2")):
        call = foreign(span_id=span * 16, **{"gen_ai.response.id": "chatcmpl-0123456789"})
        result = sorter.classify([Batch(tenant, [call._replace(trace_id=span * 32)])], lambda _: committed)
        sorter.remember_committed(result.entries)
        assert len(result.entries) == (tenant == "acme")


def test_short_response_ids_do_not_deduplicate():
    spans = [foreign(span_id=f"{n:016x}", **{"gen_ai.response.id": "chatcmpl-7"}) for n in range(3)]
    assert len(ids(*spans)[0]) == 3


def test_an_uncommitted_span_deduplicates_nothing():
    sorter = SpanDeduplicator()
    inner = foreign("openlit.otel.tracing", "3" * 16, parent="1" * 16)
    outer = foreign("pydantic-ai", "1" * 16)
    assert len(sorter.classify([Batch("", [inner])]).entries) == 1  # but its insert fails
    assert len(sorter.classify([Batch("", [outer])]).entries) == 1
    assert ids(inner, sorter=sorter)[0] == ["3" * 16]
    assert ids(outer, sorter=sorter) == ([], {"wrapper": 1})


def test_the_memory_of_spans_is_bounded(monkeypatch):
    monkeypatch.setattr(dedup, "REMEMBERED", 100)
    sorter = SpanDeduplicator()
    for turn in range(30):
        spans = [foreign(span_id=f"{n:016x}")._replace(trace_id=f"{turn * 50 + n:032x}") for n in range(50)]
        result = sorter.classify([Batch("", [*spans, foreign(span_id="x" * 100_000)])])
        sorter.remember_committed(result.entries)
    assert sorter._spans <= 100
    assert len(sorter._wrappers) <= len(sorter._parents) <= 100


HOSTILE = [2**62, 10**400, -1, "9" * 500, float("inf"), "\ud800", [], {}, True, None]


@pytest.mark.parametrize("scope", ["spanledger.openai", "openlit.otel.tracing"])
def test_an_invalid_attribute_value_does_not_drop_other_spans(scope: str):
    names = [value for key, value in vars(a).items() if key.isupper() and isinstance(value, str)]
    bad = [
        foreign(scope, f"{n:016x}", **{**dict.fromkeys(names, value), a.OPERATION: "chat", f"{a.LABEL_PREFIX}\ud800": "x"})
        for n, value in enumerate(HOSTILE)
    ]  # fmt: skip
    result = SpanDeduplicator().classify([Batch("", [*bad, foreign(scope, "f" * 16)])])
    assert not result.unreadable
    assert len(result.entries) == len(HOSTILE) + 1
    for value in (str(10**400), "1e999", 10**400):
        document = {"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": [
            {"key": "x", "value": {"intValue": value}}, {"key": "y", "value": {"doubleValue": value}},
        ]}]}]}]}  # fmt: skip
        assert len(list(otlp.spans_from_json(document))) == 1


def test_agents_tools_and_repeated_streams_are_not_calls():
    agent = foreign("pydantic-ai", gen_ai__operation__name="invoke_agent")
    chain = Span("openinference.instrumentation.langchain", {}, {"openinference.span.kind": "CHAIN", "llm.token_count.prompt": 5},
                 "a" * 32, "2" * 16, "", "x", NOW, NOW, False)  # fmt: skip
    polled = foreign(gen_ai__operation__name="fetch_response")
    opened = foreign("logfire.openai", **{"gen_ai.usage.input_tokens": None, "gen_ai.usage.output_tokens": None})
    assert ids(agent, chain, polled, opened) == ([], {"not_a_call": 4})


def test_a_call_without_usage_or_price_is_unpriced():
    nothing = foreign(**{"gen_ai.usage.input_tokens": None, "gen_ai.usage.output_tokens": None})
    unknown = foreign(span_id="2" * 16, gen_ai__request__model="no-such-model")
    entries = SpanDeduplicator().classify([Batch("", [nothing, unknown])]).entries
    rows = [dict(zip(writer.COLUMN_NAMES, entry.contents.rows[0], strict=True)) for entry in entries]
    assert [(row["cost_usd"], row["price_status"].partition(":")[0]) for row in rows] == [(None, "unpriced")] * 2


def test_a_span_survives_json_and_protobuf():
    span = foreign(a=True, b=1.5, c=["x", 2], d=-3)
    assert next(otlp.spans_from_json(json.loads(otlp.to_json_line(span)))) == span
    assert next(otlp.spans_from_protobuf(protobuf(span))) == span
