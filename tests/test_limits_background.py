"""Background responses, batches and videos: reserved at creation, settled or released at their result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from google import genai

import spanledger
from canned import Canned
from conftest import Recorded
from limited_calls import BLOCK, MESSAGES, background, balance, spend
from limiters import account_in_redis
from redis_server import RedisServer
from spanledger import BudgetExceeded
from spanledger.capture import call, dedup
from spanledger.limits import api
from spanledger.limits.store.redis import RedisStore

pytestmark = pytest.mark.services


def test_a_background_response_is_checked_at_creation_and_settled_at_its_result(
    limited, ledger: Recorded, canned: Canned
):
    usage = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}
    canned.answers["/responses"] = background("resp_limited_1", "queued")
    canned.answers["/resp_limited_1"] = background("resp_limited_1", "completed", usage=usage)
    limited("0.001")
    client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
    request: Any = {"model": "gpt-5.4-mini", "input": "x", "background": True, "max_output_tokens": 20}
    with spanledger.attribution(user="ada"):
        client.responses.create(**request)
        client.responses.retrieve("resp_limited_1")
        client.responses.retrieve("resp_limited_1")
        assert balance() == (ledger.row["cost_usd"], 0)
        request["max_output_tokens"] = 1000
        with pytest.raises(BudgetExceeded):
            client.responses.create(**request)
    assert [row["error_type"] for row in ledger.rows] == ["", "BudgetExceeded"]


def test_a_background_response_is_reserved_until_its_result_and_counts_once_over_processes(
    ledger: Recorded, canned: Canned, redis: RedisServer, tmp_path: Path, monkeypatch
):
    """Two processes poll the result; the second one is simulated by emptying what this one has seen."""
    usage = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}
    canned.answers["/responses"] = background("resp_shared_1", "queued")
    canned.answers["/resp_shared_1"] = [
        background("resp_shared_1", "in_progress"),
        background("resp_shared_1", "completed", usage=usage),
    ]
    file = tmp_path / "limits.toml"
    file.write_text(f'enforce = true\n[[budget]]\nname = "u"\nwindow = "month"\namount_usd = 1\n{BLOCK}')
    monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", redis.url)
    api.reset()
    try:
        store = RedisStore(redis.url, 2.0)

        def settled_and_reserved() -> tuple[int, int]:
            limiter = api.limiter_from_settings()
            assert limiter is not None
            assert limiter.flush(10)
            return store.balance(account_in_redis(store, "*}:u*"))

        client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
        client.responses.create(model="gpt-5.4-mini", input="x", background=True, max_output_tokens=20)
        spent, reserved = settled_and_reserved()
        assert (spent, reserved > 0) == (0, True)
        client.responses.retrieve("resp_shared_1")
        assert settled_and_reserved() == (0, reserved), "the response is not complete"
        client.responses.retrieve("resp_shared_1")
        cost = int(ledger.row["cost_usd"].scaleb(12))
        assert settled_and_reserved() == (cost, 0)
        monkeypatch.setattr("spanledger.capture.call.seen_responses", dedup.SeenResponses())
        api.reset()
        client.responses.retrieve("resp_shared_1")
        assert len(ledger.rows) == 2, "the ledger merges them by the response id"
        assert settled_and_reserved() == (cost, 0)
    finally:
        api.reset()


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_failed_background_response_releases_its_reservation(status: str, limited, ledger: Recorded, canned: Canned):
    canned.answers["/responses"] = background(f"resp_{status}_1", "queued")
    canned.answers[f"/resp_{status}_1"] = background(f"resp_{status}_1", status, usage=None)
    limited("5")
    client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
    with spanledger.attribution(user="ada"):
        client.responses.create(model="gpt-5.4-mini", input="x", background=True, max_output_tokens=100_000)
        assert balance()[1] > 0
        client.responses.retrieve(f"resp_{status}_1")
    assert balance() == (0, 0)


def test_a_failed_video_releases_its_reservation(limited, ledger: Recorded, canned: Canned, recwarn):
    video = {
        "id": "video_limited_1",
        "object": "video",
        "model": "sora-2",
        "status": "queued",
        "seconds": "12",
        "created_at": 1,
    }
    canned.answers["/videos"] = video
    canned.answers["/video_limited_1"] = {**video, "status": "failed"}
    limited("5")
    client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
    with spanledger.attribution(user="ada"):
        client.videos.create(model="sora-2", prompt="a cat", seconds="12")
        assert balance()[1] == 12 * 10**11, "ten cents a second"
        client.videos.retrieve("video_limited_1")
    assert balance() == (0, 0)
    assert ledger.rows == []


def test_a_forked_child_settles_a_background_response_of_its_parent(limited, ledger: Recorded, canned: Canned):
    usage = {"input_tokens": 100, "output_tokens": 50, "total_tokens": 150}
    canned.answers["/responses"] = background("resp_forked_1", "queued")
    canned.answers["/resp_forked_1"] = background("resp_forked_1", "completed", usage=usage)
    limited("5")
    client = openai.OpenAI(api_key="k", base_url=f"{canned.url}/v1")
    with spanledger.attribution(user="ada"):
        client.responses.create(model="gpt-5.4-mini", input="x", background=True, max_output_tokens=100)
        parent = api.limiter_from_settings()
        api.reset()  # as after a fork, in the child
        call.after_fork()
        client.responses.retrieve("resp_forked_1")
    assert api.limiter_from_settings() is not parent
    assert balance() == (ledger.row["cost_usd"], 0)


def create_google_batch(url: str) -> None:
    client = genai.Client(api_key="k", http_options={"base_url": url})
    client.batches.create(model="gemini-3.5-flash", src=[{"contents": [{"parts": [{"text": "x"}], "role": "user"}]}])


JOBS = {
    "a batch of OpenAI": lambda url: openai.OpenAI(api_key="k", base_url=f"{url}/v1").batches.create(
        input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"
    ),
    "a batch of Anthropic": lambda url: anthropic.Anthropic(api_key="k", base_url=url).messages.batches.create(
        requests=[{"custom_id": "a", "params": {"model": "claude-sonnet-4-6", "max_tokens": 10, "messages": MESSAGES}}]
    ),
    "a batch of Google": create_google_batch,
    "a video": lambda url: openai.OpenAI(api_key="k", base_url=f"{url}/v1").videos.create(prompt="a cat"),
    "a prompt in the background": lambda url: openai.OpenAI(api_key="k", base_url=f"{url}/v1").responses.create(
        prompt={"id": "pmpt_1"}, background=True
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*experimental.*")
@pytest.mark.parametrize("kind", JOBS)
def test_a_job_over_budget_is_refused_at_its_creation(kind: str, limited, ledger: Recorded, canned: Canned):
    limited("1")
    spend("2")
    with spanledger.attribution(user="ada"), pytest.raises(BudgetExceeded):
        JOBS[kind](canned.url)
    assert canned.asked == []
    assert ledger.row["error_type"] == "BudgetExceeded"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*experimental.*")
@pytest.mark.parametrize("kind", JOBS)
def test_the_creation_of_a_job_has_no_row(kind: str, limited, ledger: Recorded, canned: Canned):
    limited("5")
    with spanledger.attribution(user="ada"):
        JOBS[kind](canned.url)
    assert len(canned.asked) == 1
    assert ledger.rows == []
    assert not balance()[1] or "batch" not in kind, "a batch reserves nothing after its creation"
