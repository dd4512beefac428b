"""GenAI metrics: their sums are the ledger's, whatever was sampled, and their labels stay few."""

from __future__ import annotations

import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry, start_http_server

from conftest import Recorded
from spanledger import attribution
from spanledger.capture import call_metrics
from spanledger.capture.call_metrics import MAX_SERIES, MAX_UNREAD, MAX_WAITING, OTHER, CallMetrics
from spanledger.capture.sampler import RecordCallsSampler
from spanledger.pricing import quote
from spanledger.runtime import settings
from spanledger.semconv import attributes as a
from spanledger.semconv import result_lines
from spanledger.semconv.usage import Usage
from spanledger_clickhouse.demo.loopback_provider import Provider

CHAT: dict[str, Any] = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "how much?"}]}


class Collected:
    """What a reader of a meter provider of the test's own collects."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reader = InMemoryMetricReader()
        provider = MeterProvider([self.reader])
        monkeypatch.setattr(metrics, "get_meter", provider.get_meter)

    def points(self) -> dict[str, list[Any]]:
        data, found = self.reader.get_metrics_data(), defaultdict[str, list[Any]](list)
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] += metric.data.data_points
        return found


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Collected:
    return Collected(monkeypatch)


@pytest.fixture
def metered(ledger: Recorded, collected: Collected) -> Recorded:
    ledger.processor._metrics = CallMetrics()
    return ledger


@pytest.fixture
def client(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1", max_retries=0) as client:
        yield client


def test_sums_are_those_of_the_ledger(
    metered: Recorded, collected: Collected, client: openai.OpenAI, public_host: None
):
    metered.tracing.sampler = RecordCallsSampler(ALWAYS_OFF)  # what exporters get makes no difference
    for number in range(20):
        list(client.chat.completions.create(**CHAT, stream=True)) if number % 3 else client.chat.completions.create(
            **CHAT
        )
        client.embeddings.create(model="text-embedding-3-small", input="x")
    rows, points = metered.rows, collected.points()
    assert len(rows) == 40
    spent = sum((row["cost_usd"] or 0 for row in rows), Decimal(0))
    assert abs(sum(point.sum for point in points["gen_ai.client.operation.cost"]) - float(spent)) < 1e-9
    assert spent > 0
    by_type = {kind: sum(p.sum for p in points["gen_ai.client.token.usage"] if p.attributes[a.TOKEN_TYPE] == kind) for kind in ("input", "output")}  # fmt: skip
    tokens = {"input": "input_uncached_tokens", "output": "output_text_tokens"}
    cached = sum(row["cache_read_tokens"] + row["cache_write_tokens"] for row in rows)
    assert by_type["input"] == sum(row[tokens["input"]] for row in rows) + cached
    assert by_type["output"] == sum(row[tokens["output"]] for row in rows)
    assert sum(point.count for point in points["gen_ai.client.operation.duration"]) == 40
    assert sum(point.count for point in points["gen_ai.client.operation.time_to_first_chunk"]) == 13
    gaps = points["gen_ai.client.operation.time_per_output_chunk"]
    assert sum(point.count for point in gaps) > 13
    assert 0 < sum(point.sum for point in gaps) < sum(row["duration_us"] for row in rows) / 1e6
    assert not [name for name in points if name.startswith("gen_ai.client.inference")]


def test_labels_are_those_of_the_conventions_and_never_a_user(
    ledger: Recorded, collected: Collected, client: openai.OpenAI, public_host: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPANLEDGER_METRIC_LABELS", "feature, user")
    ledger.processor._metrics = CallMetrics()
    with attribution(user="ada", feature="search", request_id="r"):
        client.chat.completions.create(**CHAT)
    [point] = collected.points()["gen_ai.client.operation.cost"]
    assert set(point.attributes) == {
        a.OPERATION, a.PROVIDER, a.REQUEST_MODEL, a.RESPONSE_MODEL, a.SERVER_ADDRESS, a.SERVER_PORT, a.COST_CURRENCY, a.COST_SOURCE, a.FEATURE,
    }  # fmt: skip
    assert (point.attributes[a.FEATURE], point.attributes[a.COST_CURRENCY]) == ("search", "USD")


@pytest.mark.parametrize(
    ("opt_in", "former", "latest"),
    [("", 1, 0), ("http", 1, 0), ("gen_ai_latest_experimental", 0, 1), ("http/dup,gen_ai_latest_experimental/dup", 1, 1)],
)  # fmt: skip
def test_names_are_chosen_by_the_stability_opt_in(
    opt_in: str, former: int, latest: int, ledger: Recorded, collected: Collected, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)
    ledger.processor._metrics = CallMetrics()
    client.chat.completions.create(**CHAT)
    points, row = collected.points(), ledger.row
    assert len(points["gen_ai.client.operation.duration"]) == former
    assert len(points["gen_ai.client.inference.duration"]) == latest
    if latest:
        [point] = points["gen_ai.client.inference.usage.input_tokens"]
        assert point.value == row["input_uncached_tokens"] + row["cache_read_tokens"] + row["cache_write_tokens"]
        assert sum(p.value for p in points["gen_ai.client.inference.usage.cache_read.input_tokens"]) == row["cache_read_tokens"]  # fmt: skip
        [histogram] = points["gen_ai.client.inference.operation.output_tokens"]
        assert histogram.sum == row["output_text_tokens"]


def test_a_failed_call_has_its_error_and_no_tokens(metered: Recorded, collected: Collected, client: openai.OpenAI):
    with pytest.raises(openai.OpenAIError):
        client.chat.completions.create(**{**CHAT, "messages": [{"role": "user", "content": "[500]"}]})
    points = collected.points()
    assert points["gen_ai.client.operation.duration"][0].attributes[a.ERROR_TYPE] == "500"
    assert not points["gen_ai.client.token.usage"]


def test_a_row_that_grows_is_counted_once(collected: Collected):
    counted = CallMetrics()
    counted.record({a.PROVIDER: "anthropic"}, Usage(session_ms=1000), 500, None)
    counted.record({a.PROVIDER: "anthropic"}, None, 250, None)
    [point] = collected.points()["gen_ai.client.operation.cost"]
    assert abs(point.sum - 750e-12) < 1e-18


def test_series_are_bounded_and_sums_stay_whole(collected: Collected):
    counted = CallMetrics()
    for number in range(MAX_SERIES + 100):
        counted.record({a.PROVIDER: "openai", a.REQUEST_MODEL: f"model-{number}"}, None, 1_000_000, None)
    points = collected.points()["gen_ai.client.operation.cost"]
    assert len(points) == MAX_SERIES + 1
    assert abs(sum(point.sum for point in points) - (MAX_SERIES + 100) / 1e6) < 1e-9
    assert {p.attributes[a.REQUEST_MODEL]: p.count for p in points}[OTHER] == 100


def test_nothing_piles_up_where_nothing_collects():
    counted = CallMetrics()
    for _ in range(2 * MAX_WAITING):
        counted.record({a.PROVIDER: "openai"}, None, 1, None)
    assert len(counted._waiting) <= MAX_UNREAD


def test_with_a_reader_a_call_leaves_its_figures_to_it(monkeypatch: pytest.MonkeyPatch):
    provider = MeterProvider([InMemoryMetricReader()])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    counted = CallMetrics()
    for _ in range(1000):
        counted.record({a.PROVIDER: "openai"}, None, 1, None)
    assert len(counted._waiting) == 1000


def test_a_forked_child_reports_its_own_calls_alone(collected: Collected):
    counted = CallMetrics()
    counted.record({a.PROVIDER: "openai"}, None, 1, None)
    counted.after_fork()
    assert not collected.points()["gen_ai.client.operation.cost"]


def test_a_call_leaves_its_figures_in_microseconds(collected: Collected):
    """The bound is 5 us; ten times that is only for a machine that does something else meanwhile."""
    counted, facts = CallMetrics(), {a.PROVIDER: "openai", a.OPERATION: "chat", a.REQUEST_MODEL: "gpt-4.1"}
    times: list[float] = []
    for _ in range(1000):
        start = time.perf_counter()
        counted.record(facts, None, 1, 0.1)
        times.append(time.perf_counter() - start)
    assert sorted(times)[500] < 50e-6


def test_prometheus_scrapes_what_the_ledger_has(
    ledger: Recorded, client: openai.OpenAI, public_host: None, monkeypatch: pytest.MonkeyPatch
):
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry)
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    ledger.processor._metrics = CallMetrics()
    for _ in range(3):
        client.chat.completions.create(**CHAT)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    spent = sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("gen_ai_client_operation_cost") and "_sum{" in line)  # fmt: skip
    assert abs(spent - float(sum(row["cost_usd"] or 0 for row in ledger.rows))) < 1e-9
    assert spent > 0


def test_words_that_are_no_labels_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPANLEDGER_METRIC_LABELS", "feature,user")
    monkeypatch.setenv("SPANLEDGER_ALSO_FOR", "langfuse,langsmith")
    monkeypatch.setenv("SPANLEDGER_SPANS", "none")
    assert [problem.split(",")[0] for problem in settings.problems()] == [
        "SPANLEDGER_SPANS='none' is not valid: use all",
        "SPANLEDGER_ALSO_FOR has 'langsmith'",
        "SPANLEDGER_METRIC_LABELS has 'user'",
    ]
    assert call_metrics.optional_labels() == (a.FEATURE,)
    assert settings.choices("also_for") == ("langfuse",)
    assert settings.spans() == "all"


def test_results_of_a_batch_are_counted_once_with_their_labels(collected: Collected, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPANLEDGER_METRIC_LABELS", "feature")
    counted = CallMetrics()
    lines = [
        result_lines.entry(Usage(input=1000), {a.JOB_ID: f"job-{n}", a.RESPONSE_MODEL: "gpt-4.1-mini"}, None)
        for n in range(3)
    ]
    attributes = {
        a.PROVIDER: "openai",
        a.OPERATION: "chat",
        a.BATCH: True,
        a.SERVER_ADDRESS: "api.openai.com",
        a.FEATURE: "nightly",
    }
    for text in (lines[:2], lines):  # a download that was broken off, and repeated
        counted.record_lines({**attributes, a.RESULT_LINES: result_lines.joined(text)})
    [point] = collected.points()["gen_ai.client.operation.cost"]
    one = quote("openai", "gpt-4.1-mini", {"input": 1000}, tier="batch").total_picousd
    assert one
    assert (point.count, point.attributes[a.FEATURE]) == (3, "nightly")
    assert abs(point.sum - 3 * one / 1e12) < 1e-15
