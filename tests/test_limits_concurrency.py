"""Concurrent callers never exceed a budget by more than the error of their estimates."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from limiters import USD, account_in_redis, blocking, limiter_of
from redis_server import RedisServer
from spanledger.limits.policy import Dimensions
from spanledger.limits.store import redis as redis_store
from spanledger.limits.store.memory import MemoryStore
from spanledger.limits.store.redis import RedisStore
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.rows.rows import COLUMNS, contents
from spending_processes import SpendingProcesses, sums

pytestmark = pytest.mark.services


def in_a_hundred_threads(act: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=act, args=(n,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("seed", range(50))
def test_a_hundred_threads_never_exceed_a_budget_by_more_than_their_estimate_error(seed: int):
    """Over the store in memory; actual costs are below and above their estimates."""
    chance = random.Random(seed)
    store = MemoryStore()
    limiter = limiter_of(store, blocking("all", "month", USD), blocking("u", "month", USD // 2, {}, "user"))
    calls = [
        (chance.randrange(1, USD // 20), chance.choice([0.0, 0.5, 1.0, 1.2]), chance.random() < 0.1) for _ in range(100)
    ]
    spent: list[int] = []
    error: list[int] = []

    def call(number: int) -> None:
        estimate, factor, failed = calls[number]
        decision = limiter.check(Dimensions(user=f"u{number % 5}"), estimate)
        if decision.allowed:
            actual = 0 if failed else int(estimate * factor)
            spent.append(actual)
            error.append(max(0, actual - estimate))
            limiter.settle(decision.reservation, actual)

    in_a_hundred_threads(call)
    assert sum(spent) <= USD + sum(error)
    for key in store._balances:
        assert store.balance(key)[1] == 0, "no reservation is left"
    [month] = [key for key in store._balances if key.startswith("all")]
    assert store.balance(month)[0] == sum(spent)


@pytest.mark.parametrize("dimension", ["session", "conversation", "request_id"])
def test_a_hundred_sub_agents_of_a_run_pass_its_cap_by_one_calls_error_at_most(dimension: str):
    limiter = limiter_of(MemoryStore(), blocking("run", "day", USD, {}, dimension))
    chance = random.Random(1)
    calls = [(chance.randrange(1, USD // 20), chance.choice([0.5, 1.0, 1.2])) for _ in range(400)]
    spent: dict[str, list[int]] = {"a": [], "b": []}
    error: list[int] = []

    def sub_agent(number: int) -> None:
        for place in range(4):
            estimate, factor = calls[4 * number + place]
            run = "ab"[number % 2]
            decision = limiter.check(Dimensions(**{dimension: run}), estimate)
            if decision.allowed:
                actual = int(estimate * factor)
                error.append(max(0, actual - estimate))
                spent[run].append(actual)
                limiter.settle(decision.reservation, actual)

    in_a_hundred_threads(sub_agent)
    for run in spent.values():
        assert USD // 2 < sum(run) <= USD + max(error)
    assert not limiter.check(Dimensions(**{dimension: "a"}), USD).allowed
    assert limiter.check(Dimensions(**{dimension: "another"}), USD // 2).allowed


def test_a_dimension_that_no_budget_selects_by_makes_no_budgets_of_its_own():
    limiter = limiter_of(MemoryStore(), blocking("u", "day", USD, {}, "user"))
    for number in range(100):
        limiter.settle(limiter.check(Dimensions(user="a", request_id=f"r{number}"), 1).reservation, 1)
    assert len(limiter._policy_feed._matches[1]) == 1


def test_four_processes_of_25_threads_never_exceed_a_budget_in_redis(redis: RedisServer):
    """Fifty runs: the dollar is exceeded by the error of the estimates at most, no reservation is left, every cost is counted."""
    store = RedisStore(redis.url, deadline=2.0)
    with SpendingProcesses(redis.url) as processes:
        for seed in range(50):
            processes.begin(seed)
            reports = processes.reports()
            spent, error = sums(reports)
            assert USD // 2 < spent <= USD + error, seed
            key = account_in_redis(store, f"*all {seed}\x1f*")
            assert store.balance(key) == (spent, 0), seed
            assert not store._client.exists(f"{redis_store.PREFIX}{key}:holds"), seed
            assert sum(report["counted"].get("refused", 0) for report in reports) > 0, seed
            assert all(report["unanswered"] == 0 for report in reports), seed


WORKER = """
import sys, threading
import openai, spanledger
from spanledger.instrumentors import OpenAIInstrumentor
OpenAIInstrumentor().instrument()
url, seed = sys.argv[1:]
client = openai.OpenAI(api_key="k", base_url=url + "/v1", max_retries=1)
def call(number):
    for turn in range(2):
        with spanledger.attribution(user=f"user-{number % 3}", feature="f", request_id="r"):
            try:
                text = ("[429] " if (number + turn) % 5 == 0 else "") + "how much is it? " * (200 + (number * turn) % 7)
                options = dict(model="gpt-5.4-mini", messages=[{"role": "user", "content": text}], max_tokens=700)
                if turn % 2: list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
                else: client.chat.completions.create(**options)
            except spanledger.BudgetExceeded: pass
threads = [threading.Thread(target=call, args=(n,)) for n in range(25)]
[t.start() for t in threads]; [t.join() for t in threads]
"""


def test_four_processes_of_25_sdk_threads_never_exceed_a_budget(redis: RedisServer, tmp_path: Path, provider: Provider):
    amount = Decimal("0.2")
    limits = tmp_path / "limits.toml"
    limits.write_text(
        f'enforce = true\n[[budget]]\nname = "all"\nwindow = "month"\namount_usd = {amount}\naction = "block"\nfail_closed = true\n'
    )
    env = {**os.environ, "SPANLEDGER_LIMITS": str(limits), "SPANLEDGER_REDIS_URL": redis.url, "SPANLEDGER_SPOOL_DIR": str(tmp_path / "spool")}  # fmt: skip
    env.pop("SPANLEDGER_DSN", None)
    words = [sys.executable, "-c", WORKER, provider.url]
    running = [subprocess.Popen([*words, str(seed)], env=env) for seed in range(4)]
    assert [process.wait(120) for process in running] == [0] * 4
    store = RedisStore(redis.url, 2.0)
    key = account_in_redis(store, "*all*")
    spent, reserved = store.balance(key)
    assert not store._client.exists(f"{redis_store.PREFIX}{key}:holds")
    lines = [line for file in (tmp_path / "spool").glob("*.jsonl") for line in file.read_bytes().splitlines()]
    rows = [dict(zip(COLUMNS, row, strict=True)) for line in lines for row in contents(line).rows]
    refused = [row for row in rows if row["error_type"] == "BudgetExceeded"]
    costs = sum(row["cost_usd"] for row in rows if row["cost_usd"] is not None)
    assert len(rows) == 200
    assert len(refused) > 20
    assert Decimal("0.02") < costs <= amount
    assert spent == sum(sale.picousd or 0 for sale in provider.sold)
    assert costs == Decimal(spent).scaleb(-12)
    assert reserved == 0
