"""Limits at the door: a call of any SDK that has no room is refused before it is sent, and what ran is counted."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from click.testing import CliRunner
from google import genai
from loopback_provider import Provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import spanledger
from canned import Canned
from conftest import Recorded
from redis_server import RedisServer
from spanledger import BudgetExceeded, metrics
from spanledger.capture import call, dedup
from spanledger.limits import api
from spanledger.limits.estimate import request_estimate, tokenizer
from spanledger.limits.estimate.token_bound import MEDIA_TOKENS, body_tokens
from spanledger.limits.estimate.worst_case import max_cost_picousd, price_modifiers
from spanledger.limits.store.redis import RedisStore
from spanledger.pricing import quote
from spanledger.runtime import finalizers
from spanledger.runtime.reentrant_queue import ReentrantQueue
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database.connection import open_client, resolve_target
from spanledger_clickhouse.rows.rows import COLUMNS, contents
from test_operations_google import INTERACTION

pytestmark = pytest.mark.services

BLOCK = 'action = "block"\n'
MESSAGES: Any = [{"role": "user", "content": "how much is it?"}]


@pytest.fixture
def limited(tmp_path: Path, monkeypatch):
    """Put limits in force; returns what is spent and held of the only one."""

    def put(amount: str, more: str = "") -> None:
        file = tmp_path / "limits.toml"
        file.write_text(
            f'enforce = true\n[[budget]]\nname = "u"\nwindow = "month"\nper = "user"\namount_usd = {amount}\n{more or BLOCK}'
        )
        monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
        api.reset()

    yield put
    api.reset()


def balance() -> tuple[Decimal, int]:
    limiter = api.limiter_from_settings()
    assert limiter is not None
    [key] = limiter._store._balances  # type: ignore[attr-defined]
    spent, held = limiter._store.balance(key)
    return Decimal(spent).scaleb(-12), held


def spend(usd: str) -> None:
    """Ada has spent it."""
    found = api.check_request_allowed(
        provider="openai", model="gpt-5.4-mini", input_tokens=1, max_output_tokens=1, user="ada"
    )
    assert api.record_actual_cost(found["reservation"], usd)


def ask_openai(url: str, **more: Any) -> Any:
    with openai.OpenAI(api_key="k", base_url=f"{url}/v1") as client:
        answer = client.chat.completions.create(model="gpt-5.4-mini", messages=MESSAGES, max_tokens=100, **more)
        return list(answer) if more.get("stream") else answer


async def ask_openai_async(url: str) -> None:
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1") as client:
        await client.chat.completions.create(model="gpt-5.4-mini", messages=MESSAGES, max_tokens=100)


def ask_anthropic(url: str) -> None:
    with anthropic.Anthropic(api_key="k", base_url=url) as client:
        client.messages.create(model="claude-sonnet-4-6", max_tokens=100, messages=MESSAGES)


def ask_google(url: str) -> None:
    client = genai.Client(api_key="k", http_options={"base_url": url})
    client.models.generate_content(model="gemini-3.5-flash", contents="how much is it?")


ASKS = {
    "openai": ask_openai,
    "stream": lambda url: ask_openai(url, stream=True),
    "async": lambda url: asyncio.run(ask_openai_async(url)),
    "anthropic": ask_anthropic,
    "google": ask_google,
}


@pytest.mark.parametrize("style", ASKS)
def test_a_call_that_has_no_room_is_refused_before_it_is_sent(
    style: str, limited, ledger: Recorded, provider: Provider
):
    limited("0.000001")
    with spanledger.attribution(user="ada", feature="f", request_id="r"), pytest.raises(BudgetExceeded) as refused:
        ASKS[style](provider.url)
    assert refused.value.reason == "budget 'u': $0.000001 for the month is used up"
    assert 0 < refused.value.retry_after_seconds <= 31 * 86_400
    assert provider.sold == []
    row = ledger.row
    assert (row["outcome"], row["error_type"], row["attempts"], row["cost_usd"]) == ("error", "BudgetExceeded", 0, None)
    assert not row["price_status"].startswith("unpriced:")
    assert row["attributes"]["spanledger.budget.refusal"] == "budget 'u': $0.000001 for the month is used up"
    assert row["attempt_billed"] == []


@pytest.mark.parametrize("style", ASKS)
def test_what_ran_is_counted_as_the_ledger_counts_it_and_nothing_stays_held(
    style, limited, ledger: Recorded, provider: Provider
):
    limited("5")
    with spanledger.attribution(user="ada", feature="f", request_id="r"):
        ASKS[style](provider.url)
    assert balance() == (ledger.row["cost_usd"], 0)
    assert ledger.row["cost_usd"] > 0


def test_a_retried_call_holds_once_and_a_failed_one_frees_all(limited, ledger: Recorded, provider: Provider):
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


def test_somebody_elses_calls_go_on(limited, ledger: Recorded, provider: Provider):
    limited("0.000001")
    with spanledger.attribution(user="ada"), pytest.raises(BudgetExceeded):
        ask_openai(provider.url)
    ask_openai(provider.url)  # nobody's: no limit per user counts it
    assert len(provider.sold) == 1


def test_a_call_that_passed_a_threshold_says_so_on_its_row(limited, ledger: Recorded, provider: Provider, caplog):
    limited("0.000001", 'action = "warn"\n')
    with spanledger.attribution(user="ada"):
        ask_openai(provider.url)
        ask_openai(provider.url)
    first, second = sorted(ledger.rows, key=lambda row: row["start_time"])
    assert first["attributes"] == {}
    assert second["attributes"] == {"spanledger.budget.warnings": "u 100%"}
    assert "budget 'u' of one user" in caplog.text


def test_a_request_that_is_too_large_is_refused(limited, ledger: Recorded, provider: Provider):
    limited("5", "[request]\nmax_output_tokens = 50\n")
    with pytest.raises(BudgetExceeded, match="may use 100 tokens of output, and 50 are allowed") as refused:
        ask_openai(provider.url)
    assert refused.value.retry_after_seconds == 0


def test_limits_of_ones_own_code_refuse_no_call(limited, ledger: Recorded, provider: Provider, tmp_path: Path):
    limited("0.000001")
    file = tmp_path / "limits.toml"
    file.write_text(file.read_text().replace("enforce = true", ""))
    api.reset()
    with spanledger.attribution(user="ada"):
        ask_openai(provider.url)
    assert len(provider.sold) == 1


def test_what_breaks_in_here_lets_the_call_pass(limited, ledger: Recorded, provider: Provider, monkeypatch):
    from spanledger.runtime import guard

    limited("5")
    monkeypatch.setattr(request_estimate, "PromptTokenBound", lambda *_, **__: 1 / 0)
    ask_openai(provider.url)
    assert len(provider.sold) == 1
    assert guard.failures.pop(("checking limits", "ZeroDivisionError")) == 1


def test_words_count_by_their_bytes_and_media_by_the_piece():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "é" * 100}, image]}]}
    assert MEDIA_TOKENS + 200 <= body_tokens(body) < MEDIA_TOKENS + 500


# --- another model ---------------------------------------------------------------------------------------------------------

CHEAPER = {
    "gpt-5.4-mini": "gpt-5.4-nano",
    "claude-sonnet-4-6": "claude-haiku-4-5",
    "gemini-3.5-flash": "gemini-3.1-flash-lite",
}
DOWNGRADE = 'action = "downgrade"\n[features.f.downgrade]\n' + "".join(f'"{a}" = "{b}"\n' for a, b in CHEAPER.items())


@pytest.mark.parametrize("style", ASKS)
def test_a_cheaper_model_is_asked_when_the_budget_runs_short(style: str, limited, ledger: Recorded, provider: Provider):
    limited("0.000001", DOWNGRADE)
    with spanledger.attribution(user="ada", feature="f", request_id="r"):
        ASKS[style](provider.url)
    row = ledger.row
    asked, other = next(pair for pair in CHEAPER.items() if pair[1] == row["request_model"])
    assert row["attributes"]["spanledger.downgrade.requested_model"] == asked
    assert row["attributes"]["spanledger.downgrade.reason"] == "budget 'u': 95% of $0.000001 for the month is used"
    assert provider.sold[-1].model == other == row["response_model"]
    assert row["cost_usd"] > 0
    assert balance() == (row["cost_usd"], 0)


def test_an_interaction_is_asked_of_another_model_too(limited, ledger: Recorded):
    limited("0.000001", DOWNGRADE)
    server = Canned()
    server.answers["/interactions"] = {**INTERACTION, "model": "gemini-3.1-flash-lite"}
    client = genai.Client(api_key="k", http_options={"base_url": server.url})
    try:
        with spanledger.attribution(user="ada", feature="f"):
            client.interactions.create(model="gemini-3.5-flash", input="how much is it?")
    finally:
        server.close()
    [(_, _, body)] = server.asked
    assert (body["model"], body["input"]) == ("gemini-3.1-flash-lite", "how much is it?")
    assert ledger.row["request_model"] == "gemini-3.1-flash-lite"
    assert ledger.row["attributes"]["spanledger.downgrade.requested_model"] == "gemini-3.5-flash"


@pytest.mark.parametrize("kept", ["pinned = true", "critical = true"])
def test_a_pinned_or_critical_feature_keeps_its_model(kept: str, limited, ledger: Recorded, provider: Provider):
    limited("0.000001", DOWNGRADE.replace("[features.f.downgrade]", f"[features.f]\n{kept}\n[features.f.downgrade]"))
    with spanledger.attribution(user="ada", feature="f"):
        ask_openai(provider.url)
    assert ledger.row["request_model"] == "gpt-5.4-mini"
    assert "spanledger.downgrade.reason" not in ledger.row["attributes"]


def test_a_critical_feature_is_never_refused_and_still_counted(limited, ledger: Recorded, provider: Provider):
    limited("0.000001", BLOCK + "[features.f]\ncritical = true\n")
    with spanledger.attribution(user="ada", feature="f"):
        ask_openai(provider.url)
    assert balance() == (ledger.row["cost_usd"], 0)
    with spanledger.attribution(user="ada", feature="another"), pytest.raises(BudgetExceeded):
        ask_openai(provider.url)


def test_a_model_that_no_map_names_goes_on(limited, ledger: Recorded, provider: Provider):
    limited("0.000001", 'action = "downgrade"\n[features."*".downgrade]\n"another" = "gpt-5.4-nano"\n')
    with spanledger.attribution(user="ada", feature="f"):
        ask_openai(provider.url)
    assert ledger.row["request_model"] == "gpt-5.4-mini"


def test_what_is_answered_without_text_has_no_cap_of_output(limited, ledger: Recorded, provider: Provider):
    limited("5", BLOCK + "[request]\nmax_output_tokens = 50\n")
    with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
        client.embeddings.create(model="text-embedding-3-small", input="x")
        with pytest.raises(BudgetExceeded, match="4,096 tokens of output, and 50 are allowed"):
            client.chat.completions.create(model="gpt-5.4-mini", messages=MESSAGES)


def test_a_feature_may_have_caps_of_its_own(limited, ledger: Recorded, provider: Provider):
    limited("5", BLOCK + "[features.f]\nmax_output_tokens = 50\n[request]\nmax_output_tokens = 1000\n")
    ask_openai(provider.url)
    with spanledger.attribution(feature="f"), pytest.raises(BudgetExceeded, match="100 tokens of output, and 50"):
        ask_openai(provider.url)
    with pytest.raises(BudgetExceeded, match="1,100 tokens of output, and 1,000"):
        ask_openai(provider.url, n=11)


# --- tokens as a tokenizer counts them ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_tokenizer(monkeypatch) -> None:
    """The real tables come over the network."""
    monkeypatch.setattr(tokenizer, "installed", lambda: False)


@pytest.fixture
def tiktoken(no_tokenizer, monkeypatch) -> threading.Event:
    """tiktoken with a small table of its own, which comes when the event is set: the real ones are fetched."""
    import tiktoken as real

    fetched = threading.Event()

    ranks = {bytes([n]): n for n in range(256)} | {b"wo": 256, b"rd": 257, b"word": 258, b" word": 259, b" wo": 260}
    encoding = real.Encoding("small", pat_str=r" ?\w+|\W", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(real, "encoding_for_model", lambda _: fetched.wait(10) and encoding)
    monkeypatch.setattr(tokenizer, "_encodings", {})
    monkeypatch.setattr(tokenizer, "installed", lambda: True)
    return fetched


def wait_for_the_tokenizer(fetched: threading.Event) -> None:
    fetched.set()
    while tokenizer.token_counter("openai", "gpt-5.4-mini") is None:
        time.sleep(0.01)


def test_a_prompt_is_counted_by_a_tokenizer_before_it_is_refused_for_its_bound(
    limited, ledger: Recorded, provider: Provider, tiktoken
):
    limited("5", BLOCK + "[request]\nmax_input_tokens = 700\n")
    words = [{"role": "user", "content": "word" + " word" * 499}]

    def ask(messages: Any) -> None:
        with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
            client.chat.completions.create(model="gpt-5.4-mini", messages=messages, max_tokens=100)

    with pytest.raises(BudgetExceeded, match="tokens of input, and 700 are allowed"):
        ask(words)  # 2,499 bytes; the tokenizer is being loaded
    wait_for_the_tokenizer(tiktoken)
    ask(words)
    assert len(provider.sold) == 1
    with pytest.raises(BudgetExceeded, match=r"may use 1,6\d\d tokens of input"):
        ask([{"role": "user", "content": " word" * 1500}])


def test_a_budget_that_a_bound_would_use_up_has_room_for_what_a_tokenizer_counts(
    limited, ledger: Recorded, provider: Provider, tiktoken
):
    wait_for_the_tokenizer(tiktoken)
    limited("0.005", BLOCK)
    with spanledger.attribution(user="ada"), openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
        client.chat.completions.create(
            model="gpt-5.4-mini", messages=[{"role": "user", "content": " word" * 2000}], max_tokens=10
        )
    assert balance()[1] == 0
    assert tokenizer.token_counter("anthropic", "claude-sonnet-4-6") is None


# --- sessions ---------------------------------------------------------------------------------------------------------------


def test_a_session_is_not_opened_when_its_budget_is_used_up_and_its_turns_are_counted(
    limited, ledger: Recorded, monkeypatch
):
    from openai.resources.realtime.realtime import RealtimeConnection

    from test_sockets_openai import DONE, SESSION, Socket

    limited("0.00001", BLOCK)
    client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1")
    with spanledger.attribution(user="ada"):
        with pytest.raises(OSError):  # it was let through, and nobody listens there
            client.realtime.connect(model="gpt-realtime").enter()
        list(RealtimeConnection(Socket(SESSION, DONE)))
        assert balance() == (ledger.row["cost_usd"], 0)
        assert ledger.row["cost_usd"] > Decimal("0.00001")
        with pytest.raises(BudgetExceeded):
            client.realtime.connect(model="gpt-realtime").enter()
    refused = ledger.rows[-1]
    assert (refused["request_model"], refused["error_type"], refused["attempts"]) == (
        "gpt-realtime",
        "BudgetExceeded",
        0,
    )


# --- what else asks, and how much ---------------------------------------------------------------------------------------------


@pytest.fixture
def canned() -> Iterator[Canned]:
    server = Canned()
    yield server
    server.close()


def background(name: str, status: str, **more: Any) -> dict[str, Any]:
    made = {"id": name, "object": "response", "status": status, "model": "gpt-5.4-mini", "output": [], "created_at": 1}
    return {**made, "background": True, **more}


def test_a_background_response_asks_and_its_result_is_counted_when_it_is_seen(
    limited, ledger: Recorded, canned: Canned
):
    usage = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}
    canned.answers["/responses"] = background("resp_limited_1", "queued")
    canned.answers["/resp_limited_1"] = background("resp_limited_1", "completed", usage=usage)
    limited("0.001")
    client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
    asked: Any = {"model": "gpt-5.4-mini", "input": "x", "background": True, "max_output_tokens": 20}
    with spanledger.attribution(user="ada"):
        client.responses.create(**asked)
        client.responses.retrieve("resp_limited_1")
        client.responses.retrieve("resp_limited_1")
        assert balance() == (ledger.row["cost_usd"], 0)
        asked["max_output_tokens"] = 1000
        with pytest.raises(BudgetExceeded):
            client.responses.create(**asked)
    assert [row["error_type"] for row in ledger.rows] == ["", "BudgetExceeded"]


def test_what_a_background_response_may_cost_is_held_until_its_result_is_seen_and_counts_once_over_processes(
    ledger: Recorded, canned: Canned, tmp_path: Path, monkeypatch
):
    """Two processes ask for the result: here a second one is one that has seen nothing yet."""
    usage = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}
    canned.answers["/responses"] = background("resp_shared_1", "queued")
    canned.answers["/resp_shared_1"] = [
        background("resp_shared_1", "in_progress"),
        background("resp_shared_1", "completed", usage=usage),
    ]
    server = RedisServer(tmp_path)
    file = tmp_path / "limits.toml"
    file.write_text(f'enforce = true\n[[budget]]\nname = "u"\nwindow = "month"\namount_usd = 1\n{BLOCK}')
    monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", server.url)
    api.reset()
    try:
        store = RedisStore(server.url, 2.0)

        def counted() -> tuple[int, int]:
            limiter = api.limiter_from_settings()
            assert limiter is not None
            assert limiter.flush(10)
            [key] = [
                key.decode() for key in store._client.keys("*}:u*") if not key.endswith((b":holds", b":told", b":seen"))
            ]
            return store.balance(key.partition("}:")[2])

        client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
        client.responses.create(model="gpt-5.4-mini", input="x", background=True, max_output_tokens=20)
        spent, held = counted()
        assert (spent, held > 0) == (0, True)
        client.responses.retrieve("resp_shared_1")
        assert counted() == (0, held), "it is not finished"
        client.responses.retrieve("resp_shared_1")
        cost = int(ledger.row["cost_usd"].scaleb(12))
        assert counted() == (cost, 0)
        monkeypatch.setattr("spanledger.capture.call.seen_responses", dedup.SeenResponses())
        api.reset()
        client.responses.retrieve("resp_shared_1")
        assert len(ledger.rows) == 2, "the ledger knows that they are one by their name"
        assert counted() == (cost, 0)
    finally:
        api.reset()
        server.stop()


def begin_google(url: str) -> None:
    client = genai.Client(api_key="k", http_options={"base_url": url})
    client.batches.create(model="gemini-3.5-flash", src=[{"contents": [{"parts": [{"text": "x"}], "role": "user"}]}])


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_background_response_that_came_to_nothing_costs_nothing(
    status: str, limited, ledger: Recorded, canned: Canned
):
    canned.answers["/responses"] = background(f"resp_{status}_1", "queued")
    canned.answers[f"/resp_{status}_1"] = background(f"resp_{status}_1", status, usage=None)
    limited("5")
    client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
    with spanledger.attribution(user="ada"):
        client.responses.create(model="gpt-5.4-mini", input="x", background=True, max_output_tokens=100_000)
        assert balance()[1] > 0
        client.responses.retrieve(f"resp_{status}_1")
    assert balance() == (0, 0)


def test_a_video_that_came_to_nothing_holds_nothing(limited, ledger: Recorded, canned: Canned, recwarn):
    made = {
        "id": "video_limited_1",
        "object": "video",
        "model": "sora-2",
        "status": "queued",
        "seconds": "12",
        "created_at": 1,
    }
    canned.answers["/videos"] = made
    canned.answers["/video_limited_1"] = {**made, "status": "failed"}
    limited("5")
    client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
    with spanledger.attribution(user="ada"):
        client.videos.create(model="sora-2", prompt="a cat", seconds="12")
        assert balance()[1] == 12 * 10**11, "ten cents a second"
        client.videos.retrieve("video_limited_1")
    assert balance() == (0, 0)
    assert ledger.rows == []


def test_the_row_of_a_background_response_says_that_it_was_downgraded(limited, ledger: Recorded, canned: Canned):
    usage = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}
    canned.answers["/responses"] = background("resp_less_1", "queued")
    canned.answers["/resp_less_1"] = background("resp_less_1", "completed", usage=usage)
    limited("1", 'action = "downgrade"\n[features."*"]\ndowngrade = { "gpt-5.4" = "gpt-5.4-mini" }\n')
    spend("2")
    client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
    with spanledger.attribution(user="ada", feature="f"):
        client.responses.create(model="gpt-5.4", input="x", background=True, max_output_tokens=100)
        client.responses.retrieve("resp_less_1")
    assert canned.asked[0][2]["model"] == "gpt-5.4-mini"
    row = ledger.row
    assert (row["request_model"], row["attributes"]["spanledger.downgrade.requested_model"]) == (
        "gpt-5.4-mini",
        "gpt-5.4",
    )


def test_a_child_counts_for_itself_what_its_parent_has_begun(limited, ledger: Recorded, canned: Canned):
    usage = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}
    canned.answers["/responses"] = background("resp_forked_1", "queued")
    canned.answers["/resp_forked_1"] = background("resp_forked_1", "completed", usage=usage)
    limited("5")
    client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
    with spanledger.attribution(user="ada"):
        client.responses.create(model="gpt-5.4-mini", input="x", background=True, max_output_tokens=100)
        parent = api.limiter_from_settings()
        api.reset()  # what a fork does in the child
        call.after_fork()
        client.responses.retrieve("resp_forked_1")
    assert api.limiter_from_settings() is not parent
    assert balance() == (ledger.row["cost_usd"], 0)


BEGUN = {
    "a batch of OpenAI": lambda url: openai.OpenAI(api_key="k", base_url=f"{url}/v1").batches.create(
        input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"
    ),
    "a batch of Anthropic": lambda url: anthropic.Anthropic(api_key="k", base_url=url).messages.batches.create(
        requests=[{"custom_id": "a", "params": {"model": "claude-sonnet-4-6", "max_tokens": 10, "messages": MESSAGES}}]
    ),
    "a batch of Google": begin_google,
    "a video": lambda url: openai.OpenAI(api_key="k", base_url=f"{url}/v1").videos.create(prompt="a cat"),
    "a prompt in the background": lambda url: openai.OpenAI(api_key="k", base_url=f"{url}/v1").responses.create(
        prompt={"id": "pmpt_1"}, background=True
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*experimental.*")
@pytest.mark.parametrize("kind", BEGUN)
def test_what_is_billed_later_asks_when_it_is_begun(kind: str, limited, ledger: Recorded, canned: Canned):
    limited("1")
    spend("2")
    with spanledger.attribution(user="ada"), pytest.raises(BudgetExceeded):
        BEGUN[kind](canned.url)
    assert canned.asked == []
    assert ledger.row["error_type"] == "BudgetExceeded"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*experimental.*")
@pytest.mark.parametrize("kind", BEGUN)
def test_what_is_begun_makes_no_row(kind: str, limited, ledger: Recorded, canned: Canned):
    limited("5")
    with spanledger.attribution(user="ada"):
        BEGUN[kind](canned.url)
    assert len(canned.asked) == 1
    assert ledger.rows == []
    assert not balance()[1] or "batch" not in kind, "a batch holds nothing once it is begun"


def test_a_model_that_the_address_names_is_not_replaced(limited, ledger: Recorded, canned: Canned):
    limited("1", 'action = "downgrade"\n[features."*"]\ndowngrade = { "gpt-5.4" = "gpt-5.4-mini" }\n')
    canned.answers["/chat/completions"] = {
        "id": "azure-1", "object": "chat.completion", "model": "gpt-5.4", "created": 1,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }  # fmt: skip
    spend("2")
    with spanledger.attribution(user="ada", feature="f"):
        for fixed in ({"azure_deployment": "gpt-5.4"}, {}):
            client = openai.AzureOpenAI(api_key="k", api_version="2026-01-01", azure_endpoint=canned.url, **fixed)
            client.chat.completions.create(model="gpt-5.4", messages=MESSAGES, max_tokens=100)
    assert [path.partition("?")[0] for _, path, _ in canned.asked] == [
        "/openai/deployments/gpt-5.4/chat/completions",
        "/openai/deployments/gpt-5.4-mini/chat/completions",
    ]
    kept, replaced = ledger.rows
    assert (kept["request_model"], "downgrade" in str(kept["attributes"])) == ("gpt-5.4", False)
    assert (replaced["request_model"], "downgrade" in str(replaced["attributes"])) == ("gpt-5.4-mini", True)


def test_a_call_without_a_model_asks_whether_there_is_any_room(limited, ledger: Recorded, canned: Canned):
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


def test_a_row_made_by_hand_is_counted(limited, ledger: Recorded):
    limited("5")
    with spanledger.attribution(user="ada"):
        spanledger.record(provider="openai", model="gpt-5.4-mini", usage={"input": 1000, "output": 10})
    assert balance()[0] > 0


def test_what_goes_beside_the_body_counts(limited, ledger: Recorded, provider: Provider):
    limited("0.002")
    with spanledger.attribution(user="ada"), pytest.raises(BudgetExceeded):
        ask_openai(provider.url, extra_body={"n": 50})
    with spanledger.attribution(user="ada"):
        ask_openai(provider.url)


def test_an_answers_block_in_the_next_prompt_counts_by_its_text():
    from anthropic.types import TextBlock

    block = TextBlock(type="text", text="x" * 50_000)
    assert 50_000 < body_tokens({"messages": [{"role": "assistant", "content": [block]}]}) < 50_500
    page = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 100_000}}
    assert body_tokens({"messages": [{"role": "user", "content": [page]}]}) > 100_000
    nested: Any = "x"
    for _ in range(5000):
        nested = {"a": nested}
    assert body_tokens(nested) < 10_000


@pytest.mark.parametrize(
    ("provider", "model", "body", "usage"),
    [
        ("gcp.gemini", "gemini-2.5-flash-image", {}, {"input": 10, "output": 1290, "image_out": 1290}),
        ("openai", "gpt-4o-audio-preview", {"modalities": ["text", "audio"]}, {"input": 10, "output": 1000, "audio_out": 1000}),
        ("anthropic", "claude-opus-4-6", {"inference_geo": "us"}, {"input": 1000, "output": 50, "cache_write": 1000, "cache_write_1h": 1000}),
    ],
)  # fmt: skip
def test_no_kind_of_answer_is_dearer_than_the_estimate(
    provider: str, model: str, body: dict[str, Any], usage: dict[str, int]
):
    total = quote(provider, model, usage, geo=body.get("inference_geo", "")).total_picousd
    estimate = max_cost_picousd(
        provider, model, usage["input"], usage["output"], price_modifiers(body, model, None, media=False)
    )
    assert total is not None
    assert estimate is not None
    assert total <= estimate


def test_a_refusal_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(BudgetExceeded("budget 'u'", 30)))
    assert (str(error), error.reason, error.retry_after_seconds) == ("budget 'u'", "budget 'u'", 30)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stream_that_the_collector_finds_ends_where_no_lock_is_held(limited, ledger: Recorded, provider: Provider):
    """The collector may run while a lock of ours is held; here it does, in every line that holds one."""
    limited("5")
    limiter = api.limiter_from_settings()
    assert limiter is not None

    class Collecting:
        def __init__(self, lock: Any) -> None:
            self.lock = lock

        def __enter__(self) -> None:
            self.lock.acquire()
            gc.collect(1)  # what is young: all of it would take its time

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    def leave_streams() -> None:
        for owner in (limiter._store, ledger.spool):
            owner._lock = Collecting(owner._lock)  # type: ignore[attr-defined]
        with spanledger.attribution(user="ada"), openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
            for _ in range(3):
                stream = client.chat.completions.create(
                    model="gpt-5.4-mini", messages=MESSAGES, max_tokens=100, stream=True
                )
                next(stream)
                cycle: Any = [stream]
                cycle.append(cycle)
                del stream, cycle
                ask_openai(provider.url)

    thread = threading.Thread(target=leave_streams, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for itself"
    gc.collect()
    assert len(ledger.rows) == 6
    assert balance()[1] == 0


def test_a_thread_that_could_not_be_had_is_tried_again(monkeypatch):
    monkeypatch.setattr(finalizers, "_queue", ReentrantQueue())  # the thread that it gets serves this one alone

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", none)
        with pytest.raises(RuntimeError):
            finalizers.start_worker()
    finalizers.start_worker()
    assert finalizers.wait(10)


# --- metrics ----------------------------------------------------------------------------------------------------------------


def test_what_becomes_of_requests_is_a_metric(limited, ledger: Recorded, provider: Provider, monkeypatch):
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    monkeypatch.setattr(metrics.metrics, "get_meter", meters.get_meter)
    metrics.register_limit_metrics()
    assert figures(reader) == {}, "nothing where nothing is enforced"
    limited("0.000001", BLOCK)
    with spanledger.attribution(user="ada"), pytest.raises(BudgetExceeded):
        ask_openai(provider.url)
    ask_openai(provider.url)
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


def figures(reader: InMemoryMetricReader) -> dict[tuple[str, str], Any]:
    data = reader.get_metrics_data()
    return {
        (metric.name, " ".join(str(value) for value in (point.attributes or {}).values())): point.value
        for resource in (data.resource_metrics if data else [])
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


# --- as an answer of a web application -------------------------------------------------------------------------------------


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

    answer = asyncio.run(fetch())
    assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (429, "30", expected)

    flask = Flask("app")
    flask.register_error_handler(BudgetExceeded, for_flask)
    flask.get("/")(refuse)
    response = flask.test_client().get("/")
    assert (response.status_code, response.headers["Retry-After"], response.json) == (429, "30", expected)

    from django.conf import settings

    if not settings.configured:
        settings.configure(DEFAULT_CHARSET="utf-8")
    made = for_django(lambda request: request).process_exception(None, BudgetExceeded("budget 'u'", 30))
    assert (made.status_code, made["Retry-After"]) == (429, "30")
    assert for_django(lambda request: request).process_exception(None, ValueError("x")) is None


# --- all of it at once ----------------------------------------------------------------------------------------------------------

WORKER = """
import sys, threading
import openai, spanledger
from spanledger.instrumentors import OpenAIInstrumentor
OpenAIInstrumentor().instrument()
url, seed = sys.argv[1:]
client = openai.OpenAI(api_key="k", base_url=url + "/v1", max_retries=1)
def ask(number):
    for turn in range(2):
        with spanledger.attribution(user=f"user-{number % 3}", feature="f", request_id="r"):
            try:
                text = ("[429] " if (number + turn) % 5 == 0 else "") + "how much is it? " * (200 + (number * turn) % 7)
                asked = dict(model="gpt-5.4-mini", messages=[{"role": "user", "content": text}], max_tokens=700)
                if turn % 2: list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
                else: client.chat.completions.create(**asked)
            except spanledger.BudgetExceeded: pass
threads = [threading.Thread(target=ask, args=(n,)) for n in range(25)]
[t.start() for t in threads]; [t.join() for t in threads]
"""


def test_a_hundred_callers_of_a_real_sdk_in_four_processes_never_pass_a_budget(
    tmp_path: Path, provider: Provider, monkeypatch
):
    server = RedisServer(tmp_path)
    amount = Decimal("0.2")
    limits = tmp_path / "limits.toml"
    limits.write_text(
        f'enforce = true\n[[budget]]\nname = "all"\nwindow = "month"\namount_usd = {amount}\naction = "block"\nfail_closed = true\n'
    )
    env = {**os.environ, "SPANLEDGER_LIMITS": str(limits), "SPANLEDGER_REDIS_URL": server.url, "SPANLEDGER_SPOOL_DIR": str(tmp_path / "spool")}  # fmt: skip
    env.pop("SPANLEDGER_DSN", None)
    try:
        words = [sys.executable, "-c", WORKER, provider.url]
        running = [subprocess.Popen([*words, str(seed)], env=env) for seed in range(4)]
        assert [process.wait(120) for process in running] == [0] * 4
        store = RedisStore(server.url, 2.0)
        [key] = [
            key.decode() for key in store._client.keys("*all*") if not key.endswith((b":holds", b":told", b":seen"))
        ]
        spent, held = store.balance(key.partition("}:")[2])
        assert not store._client.exists(f"{key}:holds")
    finally:
        server.stop()
    found = [line for file in (tmp_path / "spool").glob("*.jsonl") for line in file.read_bytes().splitlines()]
    made = [dict(zip(COLUMNS, row, strict=True)) for line in found for row in contents(line).rows]
    refused = [row for row in made if row["error_type"] == "BudgetExceeded"]
    costs = sum(row["cost_usd"] for row in made if row["cost_usd"] is not None)
    assert len(made) == 200
    assert len(refused) > 20
    assert Decimal("0.02") < costs <= amount
    assert spent == sum(each.picousd or 0 for each in provider.sold)
    assert costs == Decimal(spent).scaleb(-12)
    assert held == 0


# --- stopping by hand --------------------------------------------------------------------------------------------------------


def test_what_is_stopped_is_refused_within_seconds_and_each_change_is_a_row(
    limited, ledger: Recorded, provider: Provider, tmp_path: Path, monkeypatch
):
    server = RedisServer(tmp_path)
    where = resolve_target(f"chdb://{tmp_path / 'chdb'}")
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", server.url)
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    limited("5")

    def run(*words: str) -> str:
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        return done.stdout

    def refused() -> bool:
        with spanledger.attribution(user="ada", feature="summarize"):
            try:
                ask_openai(provider.url)
            except BudgetExceeded as error:
                return error.reason == "feature 'summarize' is stopped (spanledger resume feature=summarize)"
        return False

    def within(seconds: float, wanted: bool) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if refused() is wanted:
                return True
            time.sleep(0.1)
        return False

    try:
        assert not refused()
        assert run("stop") == "nothing is stopped\n"
        run("stop", "feature=summarize", "--reason", "loops")
        assert within(5, wanted=True)
        with spanledger.attribution(user="ada", feature="search"):
            ask_openai(provider.url)
        assert run("stop") == "feature=summarize\n"
        run("resume", "feature=summarize")
        assert within(5, wanted=False)
        assert "is not stopped" in CliRunner().invoke(main, ["resume", "feature=summarize"]).output
        assert "is not DIMENSION=VALUE" in CliRunner().invoke(main, ["stop", "planet=x"]).output
        run("stop", "user=ada")
        server.stop()
        assert (
            CliRunner().invoke(main, ["stop", "user=bob"]).output.strip()
            == "Error: nothing is stopped (user=bob): Redis does not answer: ConnectionError"
        )
    finally:
        server.stop()
    with open_client(where) as client:
        client.command(f"USE `{where.database}`")
        rows = client.query(
            "SELECT kind, dimension, key, reason, who LIKE '%@%' FROM limit_events ORDER BY at"
        ).result_rows
    assert rows == [
        ("stop", "feature", "summarize", "loops", 1),
        ("resume", "feature", "summarize", "", 1),
        ("stop", "user", "ada", "", 1),
    ]


def test_a_budget_that_is_set_is_in_force_within_seconds_where_a_redis_is_named(
    ledger: Recorded, provider: Provider, tmp_path: Path, monkeypatch
):
    server = RedisServer(tmp_path)
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", server.url)
    monkeypatch.setenv("SPANLEDGER_DSN", f"chdb://{tmp_path / 'chdb'}")
    api.reset()

    def outcome() -> str:
        with spanledger.attribution(user="ada", feature="summarize"):
            try:
                ask_openai(provider.url)
            except BudgetExceeded as error:
                return error.reason
        return max(ledger.rows, key=lambda row: row["start_time"])["request_model"]

    def becomes(wanted: str, *words: str) -> None:
        done = CliRunner().invoke(main, ["budget", *words])
        assert done.exit_code == 0, done.output
        end = time.monotonic() + 5
        while outcome() != wanted:
            assert time.monotonic() < end, (wanted, outcome())
            time.sleep(0.1)

    try:
        assert outcome() == "gpt-5.4-mini"
        becomes(
            "budget 'u': $0.000001 for the day is used up",
            *("set", "u", "0.000001", "--scope", "feature=summarize", "--per", "user", "--period", "day", "--action", "block"),
        )  # fmt: skip
        becomes("gpt-5.4-mini", "feature", "summarize", "--critical")
        becomes("budget 'u': $0.000001 for the day is used up", "feature", "summarize", "--remove")
        becomes("gpt-5.4-mini", "set", "u", "0.000001", "--per", "user", "--action", "downgrade")
        becomes("gpt-5.4-nano", "feature", "*", "--downgrade", "gpt-5.4-mini=gpt-5.4-nano")
        becomes("gpt-5.4-mini", "remove", "u")
        store = RedisStore(server.url, 2.0)
        store.publish('{"budget": [{"name": "x"}]}')
        time.sleep(2.1)
        assert outcome() == "gpt-5.4-mini"
    finally:
        server.stop()
        api.reset()


def test_without_redis_nobody_would_hear_of_a_stop():
    assert "SPANLEDGER_REDIS_URL is not set" in CliRunner().invoke(main, ["stop", "feature=x"]).output
