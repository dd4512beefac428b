"""Published budgets and stops: when a process has them, and what stays in force without them."""

from __future__ import annotations

import json
import threading
import time

import pytest

from limiters import USD, blocking, eventually, limiter_of
from redis_server import RedisServer
from spanledger.limits import policy_feed
from spanledger.limits.circuit_breaker import CircuitBreaker
from spanledger.limits.limiter import Limiter
from spanledger.limits.policy import Dimensions, Policy
from spanledger.limits.policy_feed import PolicyFeed
from spanledger.limits.store.memory import MemoryStore
from spanledger.limits.store.protocol import Controls
from spanledger.limits.store.redis import RedisStore

pytestmark = pytest.mark.services


def test_the_first_checks_of_a_process_wait_for_the_published_stops(redis: RedisServer):
    store = RedisStore(redis.url, deadline=2.0)
    store.stop("feature=f")
    limiter = Limiter(Policy(), store)
    allowed: list[bool] = []
    threads = [
        threading.Thread(target=lambda: allowed.append(limiter.check(Dimensions(feature="f"), 1).allowed))
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert allowed == [False] * 50


def test_a_check_before_the_first_poll_is_counted_as_unenforced():
    limiter = Limiter(Policy(), RedisStore("redis://127.0.0.1:9/0"))
    assert limiter.check(Dimensions(), 1)[:2] == (True, "store")
    assert (limiter.outcome_counts, limiter.store_failures) == ({"unenforced": 1}, 1)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"budget": ' + "[" * 5000,
        "{}}",
        "[1]",
        '{"budget": [{"name": "x", "window": "day", "amount_usd": 1e-13}]}',
    ],
)
def test_an_invalid_published_policy_keeps_the_previous_one(text: str, redis: RedisServer, caplog):
    store = RedisStore(redis.url, deadline=2.0)
    store.publish(text)
    limiter = limiter_of(store, blocking("all", "month", USD))
    assert limiter.check(Dimensions(), 1).reservation
    assert "the previous budgets stay in force" in caplog.text


def test_a_redis_that_lost_its_data_keeps_the_published_policy_in_force(redis: RedisServer, monkeypatch, caplog):
    monkeypatch.setattr(policy_feed, "POLL_INTERVAL_SECONDS", 0)
    store = RedisStore(redis.url, deadline=2.0)
    policy = {"budget": [{"name": "all", "window": "month", "amount_usd": 1, "action": "block"}]}
    store.publish(json.dumps(policy))
    store.stop("user=eve")
    limiter = Limiter(Policy(), store)
    assert limiter.check(Dimensions(user="ada"), USD // 2).allowed
    store._client.flushall()
    assert not limiter.check(Dimensions(user="ada"), 2 * USD).allowed
    assert "is stopped" in limiter.check(Dimensions(user="eve"), 1).reason
    assert caplog.text.count("Redis has lost the published budgets") == 1
    store.stop("user=bob")
    assert "is stopped" in limiter.check(Dimensions(user="bob"), 1).reason, "a later stop applies as well"
    store.publish(json.dumps({"budget": []}))
    assert limiter.check(Dimensions(user="ada"), 2 * USD).allowed
    assert limiter.check(Dimensions(user="eve"), 1).allowed


def test_sixty_thousand_published_budgets_hold_up_no_call():
    budgets = [
        {"name": f"user {n}", "window": "month", "amount_usd": "10", "scope": {"user": f"u{n}"}, "action": "block"}
        for n in range(60_000)
    ]
    store = MemoryStore()
    published = json.dumps({"budget": budgets})
    store.controls = lambda: Controls(frozenset(), published)  # pyright: ignore
    feed = PolicyFeed(Policy(enforce=True), store, CircuitBreaker(lambda: None), time.time)
    began = time.perf_counter()
    feed.refresh()
    assert time.perf_counter() - began < 5, (
        "they are read in a thread (58 s in the call, before); it shares the interpreter with it"
    )
    assert eventually(lambda: len(feed.policy.budgets) == 60_000, 60)
    began = time.perf_counter()
    [budget] = feed.matched_budgets(Dimensions(user="u59999")).budgets
    assert budget.name == "user 59999"
    assert time.perf_counter() - began < 0.1
    assert feed.matched_budgets(Dimensions(user="nobody")).budgets == ()
