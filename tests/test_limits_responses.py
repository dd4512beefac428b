"""`BudgetExceeded` outside the call: pickled by a worker, as a web application's 429, as a metric."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import spanledger
from conftest import Recorded
from limited_calls import BLOCK, call_openai
from spanledger import BudgetExceeded, metrics
from spanledger.limits import api
from spanledger_clickhouse.demo.loopback_provider import Provider


def test_budget_exceeded_survives_pickling():
    error = pickle.loads(pickle.dumps(BudgetExceeded("budget 'u'", 30)))
    assert (str(error), error.reason, error.retry_after_seconds) == ("budget 'u'", "budget 'u'", 30)


def test_web_applications_answer_429_with_retry_after():
    import httpx
    from fastapi import FastAPI
    from flask import Flask

    from spanledger.limits.responses import for_django, for_flask, for_starlette

    def refuse() -> None:
        raise BudgetExceeded("budget 'u'", 30)

    expected = {"error": "budget_exceeded", "retry_after_seconds": 30}
    app = FastAPI()
    app.add_exception_handler(BudgetExceeded, for_starlette)
    app.get("/")(refuse)

    async def fetch() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app") as client:
            return await client.get("/")

    response = asyncio.run(fetch())
    assert (response.status_code, response.headers["retry-after"], response.json()) == (429, "30", expected)

    flask = Flask("app")
    flask.register_error_handler(BudgetExceeded, for_flask)
    flask.get("/")(refuse)
    response = flask.test_client().get("/")
    assert (response.status_code, response.headers["Retry-After"], response.json) == (429, "30", expected)

    from django.conf import settings

    if not settings.configured:
        settings.configure(DEFAULT_CHARSET="utf-8")
    response = for_django(lambda request: request).process_exception(None, BudgetExceeded("budget 'u'", 30))
    assert (response.status_code, response["Retry-After"]) == (429, "30")
    assert for_django(lambda request: request).process_exception(None, ValueError("x")) is None


def figures(reader: InMemoryMetricReader) -> dict[tuple[str, str], Any]:
    """Metrics of limits; those of calls are registered by the first call of a process."""
    data = reader.get_metrics_data()
    return {
        (metric.name, " ".join(str(value) for value in (point.attributes or {}).values())): point.value
        for resource in (data.resource_metrics if data else [])
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name.startswith(("spanledger.limits.", "spanledger.budget."))
        for point in metric.data.data_points
    }


def test_outcomes_of_checks_are_metrics(limited, ledger: Recorded, provider: Provider, monkeypatch):
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    monkeypatch.setattr(metrics.metrics, "get_meter", meters.get_meter)
    metrics.register_limit_metrics()
    assert figures(reader) == {}, "nothing where nothing is enforced"
    limited("0.000001", BLOCK)
    with spanledger.attribution(user="ada"), pytest.raises(BudgetExceeded):
        call_openai(provider.url)
    call_openai(provider.url)
    limiter = api.limiter_from_settings()
    assert limiter is not None
    limiter.threshold_counts["u", 0.8] += 1
    assert figures(reader) == {
        ("spanledger.limits.requests", "refused"): 1,
        ("spanledger.limits.requests", "allowed"): 1,
        ("spanledger.limits.store_unanswered", ""): 0,
        ("spanledger.limits.costs_waiting", ""): 0,
        ("spanledger.budget.thresholds", "u 0.8"): 1,
    }
    meters.shutdown()
