"""Redis killed, paused, slow or unreachable: budgets fail open or closed, and every cost is counted once afterwards."""

from __future__ import annotations

import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limiters import USD, account_in_redis, account_of_limiter, blocking, eventually, limiter_of
from redis_server import RedisServer
from spanledger.limits.limiter import Limiter
from spanledger.limits.policy import Dimensions, Policy
from spanledger.limits.store import redis as redis_store
from spanledger.limits.store.protocol import StoreError
from spanledger.limits.store.redis import RedisStore
from spending_processes import SpendingProcesses, sums

pytestmark = pytest.mark.services


def test_without_redis_a_budget_fails_open_or_closed_as_configured(own_redis: RedisServer, caplog):
    store = RedisStore(own_redis.url)
    opened, closed = (
        limiter_of(store, blocking("o", "hour", USD)),
        limiter_of(store, blocking("c", "hour", USD, fail_closed=True)),
    )
    reserved = opened.check(Dimensions(), USD // 2)
    assert reserved.reservation
    own_redis.stop()
    assert opened.check(Dimensions(), USD)[:2] == (True, "store")
    refusal = closed.check(Dimensions(), USD)
    assert (refusal.allowed, refusal.retry_after_seconds) == (False, 1)
    assert "Redis does not answer" in refusal.reason
    assert not opened.settle(reserved.reservation, USD // 4)
    assert opened.store_failures == 1, "the circuit breaker skips it"
    assert caplog.text.count("limits are not enforced") == 2, "once per limiter"
    own_redis.start()
    assert eventually(lambda: store.balance(account_of_limiter(opened)) == (USD // 4, 0)), (
        "the cost is settled when Redis is back"
    )
    assert opened.check(Dimensions(), USD // 2).reason == ""


def test_a_slow_redis_delays_a_call_by_its_deadline_at_most(own_redis: RedisServer):
    limiter = limiter_of(RedisStore(own_redis.url), blocking("o", "hour", USD))
    assert limiter.check(Dimensions(), 1).reservation
    own_redis.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert limiter.check(Dimensions(), 1)[:2] == (True, "store")
        assert time.monotonic() - began < 0.5
    finally:
        own_redis.signal(signal.SIGCONT)


def test_a_reservation_that_timed_out_is_released_when_its_process_ends(own_redis: RedisServer):
    """Redis executes the reservation only after its call has timed out and was refused."""
    budget = replace(blocking("b", "month", USD), fail_closed=True)
    settling = RedisStore(own_redis.url, redis_store.SETTLEMENT_DEADLINE_SECONDS)
    limiter = Limiter(Policy((budget,)), RedisStore(own_redis.url, 0.2), settlement_store=settling)
    assert limiter.settle(limiter.check(Dimensions(), USD // 2).reservation, 1)
    own_redis.signal(signal.SIGSTOP)
    assert not limiter.check(Dimensions(), USD // 2).allowed
    resumed = threading.Timer(0.7, own_redis.signal, [signal.SIGCONT])
    resumed.start()
    limiter.close()
    resumed.join()
    key = account_of_limiter(limiter)
    assert settling.balance(key) == (1, 0)
    assert not settling._client.exists(f"{redis_store.PREFIX}{key}:holds")


def test_the_outcome_of_a_command_without_a_response_is_unknown(own_redis: RedisServer):
    store = RedisStore(
        f"{own_redis.url}?socket_timeout=5&socket_connect_timeout=5&decode_responses=true", deadline=0.05
    )
    assert store.controls().stopped == frozenset()
    own_redis.signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreError) as failure:
            store.controls()
        assert failure.value.outcome_unknown
        assert store._client.connection_pool.connection_kwargs["socket_timeout"] == 0.05, "whatever the URL has"
    finally:
        own_redis.signal(signal.SIGCONT)
    own_redis.stop()
    with pytest.raises(StoreError) as failure:
        RedisStore(own_redis.url).controls()
    assert not failure.value.outcome_unknown, "the connection was refused"


def test_a_slow_name_resolution_delays_no_call(redis: RedisServer, monkeypatch):
    resolving = threading.Event()
    before = set(threading.enumerate())
    real = socket.getaddrinfo

    def slow(*arguments: Any, **options: Any) -> Any:
        resolving.wait(30)
        return real(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    store = RedisStore(redis.url, deadline=0.05)
    for _ in range(3):
        with pytest.raises(StoreError) as failure:
            store.controls()
        assert not failure.value.outcome_unknown
    connecting = [thread for thread in set(threading.enumerate()) - before if thread.name == "spanledger-redis"]
    assert len(connecting) == 1, "the others wait for the same attempt"
    resolving.set()
    connecting[0].join(10)
    assert eventually(store.controls), "it is connected now"


@pytest.mark.parametrize(("fail_closed", "fault"), [(False, "kill"), (True, "kill"), (False, "pause"), (True, "pause")])
def test_redis_is_killed_or_paused_in_the_middle_of_a_run(tmp_path: Path, fail_closed: bool, fault: str):
    """Fail closed: the dollar is never exceeded. Fail open: calls are allowed, and in the end every cost is counted once."""
    server = RedisServer(tmp_path, durable=True)
    seed = 7
    try:
        with SpendingProcesses(
            server.url, 3, 10, 5000, 0.25, fail_closed, seconds=4, most=USD // 2000, most_pause=0.02
        ) as processes:
            processes.begin(seed)
            store = RedisStore(server.url, deadline=2.0)
            assert eventually(lambda: store._client.keys(f"*all {seed}\x1f*")), "the processes have started"
            for _ in range(3):
                time.sleep(0.4)
                if fault == "kill":
                    server.stop()
                    time.sleep(0.4)
                    server.start()
                else:
                    server.signal(signal.SIGSTOP)
                    time.sleep(0.6)
                    server.signal(signal.SIGCONT)
            reports = processes.reports()
        spent, error = sums(reports)
        key = account_in_redis(store, f"*all {seed}\x1f*")
        assert store.balance(key)[0] == spent, "each cost once"
        reserved = {
            name.decode().rpartition(":")[0] for name in store._client.zrange(f"{redis_store.PREFIX}{key}:holds", 0, -1)
        }
        settled = [call for report in reports for call in report["settled"]]
        assert not reserved & {call[3] for call in settled}, "a settled call has no reservation"
        assert sum(report["unanswered"] for report in reports) > 0
        assert max(call[4] for call in settled) < 2.0
        unchecked = [call for call in settled if call[0] == "store"]
        if fail_closed:
            assert spent <= USD + error
            assert not unchecked
        else:
            assert unchecked
    finally:
        server.stop()
