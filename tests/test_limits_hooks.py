"""Limits in the hooks of the SDKs: a call over budget is refused before it is sent, any other is settled at its cost."""

from __future__ import annotations

import gc
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

import spanledger
from canned import Canned
from conftest import Recorded
from limited_calls import BLOCK, CALLS, MESSAGES, balance, call_openai
from spanledger import BudgetExceeded
from spanledger.limits import api
from spanledger.limits.estimate import request_estimate
from spanledger_clickhouse.demo.loopback_provider import Provider


@pytest.mark.parametrize("style", CALLS)
def test_a_call_over_budget_is_refused_before_it_is_sent(style: str, limited, ledger: Recorded, provider: Provider):
    limited("0.000001")
    with spanledger.attribution(user="ada", feature="f", request_id="r"), pytest.raises(BudgetExceeded) as refusal:
        CALLS[style](provider.url)
    assert refusal.value.reason == "budget 'u': $0.000001 for the month is used up"
    assert 0 < refusal.value.retry_after_seconds <= 31 * 86_400
    assert provider.sold == []
    row = ledger.row
    assert (row["outcome"], row["error_type"], row["attempts"], row["cost_usd"]) == ("error", "BudgetExceeded", 0, None)
    assert not row["price_status"].startswith("unpriced:")
    assert row["attributes"]["spanledger.budget.refusal"] == "budget 'u': $0.000001 for the month is used up"
    assert row["attempt_billed"] == []


@pytest.mark.parametrize("style", CALLS)
def test_a_call_is_settled_at_the_cost_of_its_row(style, limited, ledger: Recorded, provider: Provider):
    limited("5")
    with spanledger.attribution(user="ada", feature="f", request_id="r"):
        CALLS[style](provider.url)
    assert balance() == (ledger.row["cost_usd"], 0)
    assert ledger.row["cost_usd"] > 0


def test_a_retried_call_is_reserved_once_and_a_failed_one_releases_its_reservation(
    limited, ledger: Recorded, provider: Provider
):
    limited("5")
    with (
        spanledger.attribution(user="ada"),
        openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1", max_retries=2) as client,
    ):
        client.chat.completions.create(
            model="gpt-5.4-mini", max_tokens=9, messages=[{"role": "user", "content": "[429] how much?"}]
        )
        assert balance() == (ledger.row["cost_usd"], 0)
    with spanledger.attribution(user="ada"), pytest.raises(openai.APIConnectionError):
        openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9", max_retries=0).chat.completions.create(
            model="gpt-5.4-mini", messages=MESSAGES
        )
    assert balance() == (ledger.rows[0]["cost_usd"], 0)


def test_an_exhausted_budget_of_one_user_refuses_no_other_calls(limited, ledger: Recorded, provider: Provider):
    limited("0.000001")
    with spanledger.attribution(user="ada"), pytest.raises(BudgetExceeded):
        call_openai(provider.url)
    call_openai(provider.url)  # without a user: no budget per user counts it
    assert len(provider.sold) == 1


def test_a_crossed_threshold_is_an_attribute_of_the_row(limited, ledger: Recorded, provider: Provider, caplog):
    limited("0.000001", 'action = "warn"\n')
    with spanledger.attribution(user="ada"):
        call_openai(provider.url)
        call_openai(provider.url)
    first, second = sorted(ledger.rows, key=lambda row: row["start_time"])
    assert first["attributes"] == {}
    assert second["attributes"] == {"spanledger.budget.warnings": "u 100%"}
    assert "budget 'u' of one user" in caplog.text


def test_without_enforce_the_hooks_refuse_no_call(limited, ledger: Recorded, provider: Provider, tmp_path: Path):
    limited("0.000001")
    file = tmp_path / "limits.toml"
    file.write_text(file.read_text().replace("enforce = true", ""))
    api.reset()
    with spanledger.attribution(user="ada"):
        call_openai(provider.url)
    assert len(provider.sold) == 1


def test_an_exception_in_a_check_allows_the_call(limited, ledger: Recorded, provider: Provider, monkeypatch):
    from spanledger.runtime import guard

    limited("5")
    monkeypatch.setattr(request_estimate, "PromptTokenBound", lambda *_, **__: 1 / 0)
    call_openai(provider.url)
    assert len(provider.sold) == 1
    assert guard.failures.pop(("checking limits", "ZeroDivisionError")) == 1


def test_a_request_over_the_output_cap_is_refused(limited, ledger: Recorded, provider: Provider):
    limited("5", "[request]\nmax_output_tokens = 50\n")
    with pytest.raises(BudgetExceeded, match="may use 100 tokens of output, and 50 are allowed") as refusal:
        call_openai(provider.url)
    assert refusal.value.retry_after_seconds == 0


def test_a_feature_has_caps_of_its_own(limited, ledger: Recorded, provider: Provider):
    limited("5", BLOCK + "[features.f]\nmax_output_tokens = 50\n[request]\nmax_output_tokens = 1000\n")
    call_openai(provider.url)
    with spanledger.attribution(feature="f"), pytest.raises(BudgetExceeded, match="100 tokens of output, and 50"):
        call_openai(provider.url)
    with pytest.raises(BudgetExceeded, match="1,100 tokens of output, and 1,000"):
        call_openai(provider.url, n=11)


def test_an_operation_without_text_output_has_no_output_cap(limited, ledger: Recorded, provider: Provider):
    limited("5", BLOCK + "[request]\nmax_output_tokens = 50\n")
    with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
        client.embeddings.create(model="text-embedding-3-small", input="x")
        with pytest.raises(BudgetExceeded, match="4,096 tokens of output, and 50 are allowed"):
            client.chat.completions.create(model="gpt-5.4-mini", messages=MESSAGES)


def test_extra_body_counts_in_the_estimate(limited, ledger: Recorded, provider: Provider):
    limited("0.002")
    with spanledger.attribution(user="ada"), pytest.raises(BudgetExceeded):
        call_openai(provider.url, extra_body={"n": 50})
    with spanledger.attribution(user="ada"):
        call_openai(provider.url)


def test_a_call_without_a_model_is_refused_once_its_budget_is_exhausted(limited, ledger: Recorded, canned: Canned):
    usage = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}
    canned.answers["/responses"] = {
        "id": "resp_limited_2",
        "object": "response",
        "status": "completed",
        "model": "gpt-5.4-mini",
        "output": [],
        "usage": usage,
    }
    limited("0.0001")
    client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
    with spanledger.attribution(user="ada"):
        client.responses.create(prompt={"id": "pmpt_1"}, input="x")
        assert balance() == (ledger.row["cost_usd"], 0)
        with pytest.raises(BudgetExceeded):
            client.responses.create(prompt={"id": "pmpt_1"}, input="x")


def test_a_manually_recorded_call_counts_in_its_budget(limited, ledger: Recorded):
    limited("5")
    with spanledger.attribution(user="ada"):
        spanledger.record(provider="openai", model="gpt-5.4-mini", usage={"input": 1000, "output": 10})
    assert balance()[0] > 0


def test_a_realtime_session_is_settled_by_turn_and_refused_once_its_budget_is_exhausted(
    limited, ledger: Recorded, monkeypatch
):
    from openai.resources.realtime.realtime import RealtimeConnection

    from realtime_socket import DONE, SESSION, Socket

    limited("0.00001", BLOCK)
    client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1")
    with spanledger.attribution(user="ada"):
        with pytest.raises(OSError):  # it was allowed, and nothing listens there
            client.realtime.connect(model="gpt-realtime").enter()
        list(RealtimeConnection(Socket(SESSION, DONE)))
        assert balance() == (ledger.row["cost_usd"], 0)
        assert ledger.row["cost_usd"] > Decimal("0.00001")
        with pytest.raises(BudgetExceeded):
            client.realtime.connect(model="gpt-realtime").enter()
    refusal = ledger.rows[-1]
    assert (refusal["request_model"], refusal["error_type"], refusal["attempts"]) == (
        "gpt-realtime",
        "BudgetExceeded",
        0,
    )


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_garbage_collected_stream_is_settled_outside_all_locks(limited, ledger: Recorded, provider: Provider):
    """The garbage collector may run while a thread holds a lock of the store or the spool; here it always does."""
    limited("5")
    limiter = api.limiter_from_settings()
    assert limiter is not None

    class Collecting:
        def __init__(self, lock: Any) -> None:
            self.lock = lock

        def acquire(self, timeout: float = -1) -> bool:
            acquired = self.lock.acquire(timeout=timeout)
            gc.collect(1)  # young objects only: a full collection is slow
            return acquired

        def release(self) -> None:
            self.lock.release()

        def __enter__(self) -> None:
            self.acquire()

        def __exit__(self, *_: object) -> None:
            self.release()

    def leave_streams() -> None:
        limiter._store._lock = Collecting(limiter._store._lock)  # type: ignore[attr-defined]
        ledger.spool._process.lock = Collecting(ledger.spool._process.lock)  # type: ignore[assignment]
        with spanledger.attribution(user="ada"), openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
            for _ in range(3):
                stream = client.chat.completions.create(
                    model="gpt-5.4-mini", messages=MESSAGES, max_tokens=100, stream=True
                )
                next(stream)
                cycle: Any = [stream]
                cycle.append(cycle)
                del stream, cycle
                call_openai(provider.url)

    thread = threading.Thread(target=leave_streams, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "a deadlock"
    gc.collect()
    assert len(ledger.rows) == 6
    assert balance()[1] == 0
