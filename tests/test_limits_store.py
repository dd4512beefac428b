"""The contract of a store of reservations, in memory and in Redis; eviction from the one in memory."""

from __future__ import annotations

import time

import pytest

from limiters import USD, account, blocking, limiter_of
from spanledger.limits.policy import Dimensions
from spanledger.limits.store import memory as memory_store
from spanledger.limits.store import redis as redis_store
from spanledger.limits.store.memory import MemoryStore
from spanledger.limits.store.protocol import Store

pytestmark = pytest.mark.services


def test_a_reservation_counts_until_it_is_settled(store: Store):
    assert store.reserve("r1", [account()], 6 * USD // 10) == (None, [0])
    assert store.balance("a") == (0, 6 * USD // 10)
    assert store.reserve("r2", [account()], 5 * USD // 10).full_index == 0
    store.settle("r1", [account()], 6 * USD // 10, 2 * USD // 10)
    assert store.balance("a") == (2 * USD // 10, 0)
    assert store.reserve("r2", [account()], 8 * USD // 10) == (None, [2 * USD // 10])


def test_a_reservation_takes_all_budgets_or_none(store: Store):
    assert store.reserve("r1", [account("a", 1), account("b", 0.5)], 6 * USD // 10).full_index == 1
    assert store.balance("a") == (0, 0)
    assert store.reserve("r1", [account("a", 1), account("b", 0.5)], 4 * USD // 10).full_index is None
    assert store.balance("a") == store.balance("b") == (0, 4 * USD // 10)


def test_an_abandoned_reservation_expires_and_its_late_cost_counts(store: Store, monkeypatch):
    for module in (memory_store, redis_store):
        monkeypatch.setattr(module, "HOLD_SECONDS", 0.2)
    assert store.reserve("r1", [account()], USD).full_index is None
    assert store.reserve("r2", [account()], USD).full_index == 0
    time.sleep(0.25)
    assert store.reserve("r2", [account()], USD // 2).full_index is None
    store.settle("r1", [account()], USD, USD // 4)
    assert store.balance("a") == (USD // 4, USD // 2)


def test_sums_are_exact_beyond_the_precision_of_a_double(store: Store):
    for number in range(3):
        store.settle(f"r{number}", [account("big", 900_000)], 0, 3 * 10**16 + 1)
    assert store.balance("big") == (9 * 10**16 + 3, 0)


def test_a_new_user_does_not_copy_the_balances_of_others():
    """The table of balances is updated in place."""
    store = MemoryStore()
    limiter = limiter_of(store, blocking("u", "month", USD, {}, "user"))
    limiter.settle(limiter.check(Dimensions(user="u0"), 5).reservation, 5)
    balances = store._balances
    for number in range(8000):
        limiter.settle(limiter.check(Dimensions(user=f"u{number}"), 5).reservation, 5)
    assert store._balances is balances
    assert not limiter.check(Dimensions(user="refused"), 2 * USD).allowed
    assert len(balances) == 8000, "a refused user has no balance"


def test_eviction_of_users_keeps_the_sum_of_a_global_budget(monkeypatch, caplog):
    monkeypatch.setattr(memory_store, "MAX_ACCOUNTS", 200)
    store = MemoryStore()
    limiter = limiter_of(store, blocking("all", "month", 10 * USD), blocking("u", "hour", USD, per="user"))
    limiter.settle(limiter.check(Dimensions(), 9 * USD).reservation, 9 * USD)
    limiter.settle(limiter.check(Dimensions(user="heavy"), USD // 2).reservation, USD // 2)
    for number in range(1000):
        limiter.settle(limiter.check(Dimensions(user=f"u{number}"), 5).reservation, 5)
    assert len(store._balances) <= 200
    [month] = [key for key in store._balances if key.startswith("all")]
    assert store.balance(month) == (9 * USD + USD // 2 + 5000, 0)
    assert not limiter.check(Dimensions(user="heavy"), 6 * USD // 10).allowed, "the smallest are evicted first"
    assert "the smallest are evicted" in caplog.text
