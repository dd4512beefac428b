"""Reservations and settlements in Redis: each counts once, and an error says whether its command ran."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from limiters import USD, account, account_in_redis, account_of_limiter, blocking, limiter_of
from redis_server import RedisServer
from spanledger.limits.policy import Dimensions
from spanledger.limits.store import redis as redis_store
from spanledger.limits.store.protocol import StoreError
from spanledger.limits.store.redis import RedisStore

pytestmark = pytest.mark.services


def test_a_reservation_of_zero_does_not_break_later_ones(redis: RedisServer, monkeypatch):
    """Redis refuses HINCRBY by -0: a reservation of a model without a price must not make later commands fail."""
    monkeypatch.setattr(redis_store, "HOLD_SECONDS", 0.2)
    store = RedisStore(redis.url, deadline=2.0)
    limiter = limiter_of(store, blocking("all", "month", USD))
    unpriced = limiter.check(Dimensions(), None)
    assert limiter.settle(unpriced.reservation, USD // 2)
    abandoned = limiter.check(Dimensions(), 0)
    assert abandoned.reservation
    time.sleep(0.3)
    assert not limiter.check(Dimensions(), USD).allowed
    assert limiter.store_failures == 0
    assert store.balance(account_of_limiter(limiter)) == (USD // 2, 0)


def test_a_settlement_repeated_after_a_lost_response_counts_once(redis: RedisServer):
    store = RedisStore(redis.url, deadline=2.0)
    store.reserve("r", [account()], 5)
    assert [store.settle("r", [account()], 5, 3) for _ in range(2)] == [[3], [3]]
    assert store.balance("a") == (3, 0)


def test_a_reservation_that_arrives_after_its_settlement_reserves_nothing(redis: RedisServer):
    """A reservation that was delayed: its caller has timed out, and released it."""
    store = RedisStore(redis.url, deadline=2.0)
    accounts = [account("a"), account("b")]
    store.settle("late", accounts, 500, 0)
    assert store.reserve("late", accounts, 500).full_index == 0
    assert store.balance("a") == store.balance("b") == (0, 0)


def test_a_cost_settled_by_several_processes_counts_once_in_each_budget(redis: RedisServer):
    """The process that polls a background response may run for another user than the one that created it."""
    store = RedisStore(redis.url, deadline=2.0)
    everybody, ada = account("all"), account("ada")
    assert store.settle("openai:r1", [everybody], 0, 1000, cross_process=True) == [1000]
    assert store.settle("openai:r1", [everybody, ada], 0, 1000, cross_process=True) == [1000, 1000]
    assert store.settle("openai:r1", [everybody, ada], 0, 1000, cross_process=True) == [1000, 1000]
    assert store.settle("openai:r2", [everybody, ada], 0, 1, cross_process=True) == [1001, 1001]


def test_a_settlement_that_redis_rejects_does_not_block_others(redis: RedisServer):
    store = RedisStore(redis.url, deadline=2.0)
    limiter = limiter_of(store, blocking("u", "hour", USD, per="user"))
    broken = limiter.check(Dimensions(user="ada"), 5)
    fine = limiter.check(Dimensions(user="bob"), 5)
    [key] = store._client.keys("*ada*hour*[0-9]")
    store._client.set(key, "no hash")
    assert not limiter.settle(broken.reservation, 5)
    assert limiter.settle(fine.reservation, 5)
    assert limiter.flush(10)
    assert (limiter.lost_settlements, limiter.pending_settlements) == ({"refused": 1}, 0)
    assert limiter.check(Dimensions(user="ada"), 5)[:2] == (True, "store")
    assert limiter.check(Dimensions(user="bob"), 5).reason == "", "Redis is there for others"


@pytest.mark.parametrize(
    ("error", "outcome_unknown", "refused"),
    [
        ("READONLY You can't write against a read only replica.", False, False),
        ("OOM command not allowed when used memory > 'maxmemory'.", False, False),
        ("LOADING Redis is loading the dataset in memory", False, False),
        ("MOVED 1 127.0.0.1:1", False, False),
        ("MISCONF Redis is configured to save RDB snapshots", False, False),
        ("BUSY Redis is busy running a script.", False, False),
        ("NOAUTH Authentication required.", False, False),
        ("WRONGTYPE Operation against a key", False, True),
        ("ERR hash value is not an integer", False, True),
        ("ERR user_script:3: attempt to compare nil with number script: 5a", False, True),
    ],
)
def test_a_refused_redis_command_was_not_executed(redis: RedisServer, error: str, outcome_unknown: bool, refused: bool):
    from redis._parsers.base import BaseParser

    store = RedisStore(redis.url, deadline=2.0)
    with pytest.raises(StoreError) as failure, store._mapped_errors():
        raise BaseParser.parse_error(error)
    assert (failure.value.outcome_unknown, failure.value.refused) == (outcome_unknown, refused)


CHILDREN = """
import multiprocessing, sys, time
from spanledger.limits import api
request = dict(provider="openai", model="gpt-5.4-mini", input_tokens=1000, max_output_tokens=100, user="ada")
def work():
    decision = api.check_request_allowed(**request)
    limiter = api.limiter_from_settings()
    limiter._open_reservations.pop(decision["reservation"]).count(7)  # as a call does: the settlement worker settles it
if __name__ == "__main__":
    while api.check_request_allowed(**request)["reason"]: time.sleep(0.1)  # a slow machine: Redis missed the deadline
    children = [multiprocessing.get_context("fork").Process(target=work) for _ in range(12)]
    [child.start() for child in children]
    [child.join() for child in children]
    sys.exit(sum(child.exitcode for child in children))
"""


def test_a_forked_child_settles_its_last_cost_before_it_exits(redis: RedisServer, tmp_path: Path):
    """Children of multiprocessing exit without atexit."""
    store = RedisStore(redis.url, deadline=2.0)
    file = tmp_path / "limits.toml"
    file.write_text('[[budget]]\nname = "all 1"\nwindow = "month"\namount_usd = 1\naction = "block"\n')
    env = {**os.environ, "SPANLEDGER_LIMITS": str(file), "SPANLEDGER_REDIS_URL": redis.url}
    (tmp_path / "children.py").write_text(CHILDREN)
    subprocess.run([sys.executable, "children.py"], cwd=tmp_path, env=env, check=True, timeout=60)
    key = account_in_redis(store, "*all 1\x1f*")
    reservations = store._client.zcard(f"{redis_store.PREFIX}{key}:holds")
    assert (store.balance(key)[0], reservations) == (12 * 7, 1), "the parent's is still open"


def test_an_invalid_redis_url_is_rejected_without_its_password():
    with pytest.raises(StoreError, match="is not a valid Redis URL"):
        RedisStore("http://user:s3cret@h")
