"""Limits: what is let through never costs more than the limit, whoever asks at once, whatever becomes of the store."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

import spanledger
from questions import Question
from redis_server import RedisServer
from spanledger.limits import api, policy_feed
from spanledger.limits.estimate.token_bound import text_tokens
from spanledger.limits.estimate.worst_case import bucketed, max_cost_picousd
from spanledger.limits.limiter import Decision, Limiter
from spanledger.limits.periods import window
from spanledger.limits.policy import BLOCK, Budget, Dimensions, Policy, Rule
from spanledger.limits.policy_documents import PolicyError, load, policy_from_document
from spanledger.limits.store import memory as memory_store
from spanledger.limits.store import redis as redis_store
from spanledger.limits.store.memory import MemoryStore
from spanledger.limits.store.protocol import BudgetCounter, Store, StoreError
from spanledger.limits.store.redis import RedisStore
from spanledger.pricing import quote

pytestmark = pytest.mark.services

USD = 10**12
blocking = partial(Budget, action=BLOCK)
BERLIN = ZoneInfo("Europe/Berlin")


# --- windows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "zone", "at", "hours"),
    [
        ("hour", UTC, "2026-03-29T01:30:00+00:00", 1),
        ("day", UTC, "2026-03-29T01:30:00+00:00", 24),
        ("day", BERLIN, "2026-03-29T12:00:00+00:00", 23),  # the clock goes forward
        ("day", BERLIN, "2026-10-25T12:00:00+00:00", 25),  # and back
        ("month", UTC, "2026-02-28T23:59:59.999999+00:00", 28 * 24),
        ("month", UTC, "2028-02-29T00:00:00+00:00", 29 * 24),
        ("month", BERLIN, "2026-10-31T23:30:00+00:00", 30 * 24),  # November there
        ("month", BERLIN, "2026-03-05T00:00:00+00:00", 31 * 24 - 1),
        ("hour", ZoneInfo("Asia/Kolkata"), "2026-03-29T01:45:00+00:00", 1),
    ],
)
def test_a_window_is_as_long_as_the_clock_says(name, zone, at, hours):
    found = window(name, datetime.fromisoformat(at), zone)
    assert found.end - found.start == timedelta(hours=hours)
    assert found.start.astimezone(zone).minute == 0


def test_the_hour_that_is_there_twice_is_two_windows():
    first, second = (window("hour", datetime(2026, 10, 25, hour, 30, tzinfo=UTC), BERLIN) for hour in (0, 1))
    assert first.end == second.start


@given(st.integers(1_577_836_800, 1_893_456_000).map(lambda s: datetime.fromtimestamp(s, UTC)), st.sampled_from(["hour", "day", "month"]),
       st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Pacific/Apia"]))  # fmt: skip
def test_every_moment_is_in_its_window_and_windows_meet(at, name, zone):
    found = window(name, at, ZoneInfo(zone))
    assert found.start <= at < found.end
    assert window(name, found.end, ZoneInfo(zone)).start == found.end
    assert window(name, found.end - timedelta(microseconds=1), ZoneInfo(zone)) == found


# --- policy -------------------------------------------------------------------------------------------------------------


GOOD = """
[[budget]]
name = "all"
window = "month"
amount_usd = 10000
action = "block"
[[budget]]
name = "a user's hour"
window = "hour"
amount_usd = 1.5
action = "block"
per = "user"
scope = { tier = "free" }
zone = "Europe/Berlin"
fail_closed = true
[request]
max_input_tokens = 32000
max_output_tokens = 4096
"""


def test_a_file_of_limits_is_read_the_shortest_window_first(tmp_path: Path):
    file = tmp_path / "limits.toml"
    file.write_text(GOOD)
    assert load(str(file)) == Policy(
        (blocking("a user's hour", "hour", 15 * USD // 10, {"tier": "free"}, "user", BERLIN, True), blocking("all", "month", 10_000 * USD)),
        32_000,
        4_096,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[budget]]\nwindow='day'\namount_usd=1", "budget 1 has no name"),
        ("[[budget]]\nname='a'\nwindow='week'\namount_usd=1", "use hour, day, month"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=-1", "dollars from 0.000001"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=true", "dollars from 0.000001"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=nan", "dollars from 0.000001"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=1\nzone='Mars'", "is not a valid time zone"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=1\nper='planet'", "use user, feature"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=1\nscope={planet='x'}", "scope must be a table"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=1\nfail_closed='yes'", "true or false"),
        (
            "[[budget]]\nname='a'\nwindow='day'\namount_usd=1\n[[budget]]\nname='a'\nwindow='day'\namount_usd=2",
            "duplicate budget",
        ),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=1\naction='shout'", "use warn, downgrade, block"),
        ("[[budget]]\nname='a'\nwindow='day'\namount_usd=1\nthresholds=[0.8, 'x']", "use shares such as"),
        ("[[budgets]]", "'budgets' is not a valid key"),
        ("[request]\nmax_input_tokens='many'", "a number of tokens"),
        ("budget = 3 = 4", "not valid TOML"),
    ],
)
def test_what_makes_no_sense_is_said(text: str, said: str, tmp_path: Path):
    file = tmp_path / "limits.toml"
    file.write_text(text)
    with pytest.raises(PolicyError, match=said):
        load(str(file))


def test_a_file_that_is_no_utf8_is_said(tmp_path: Path):
    file = tmp_path / "limits.toml"
    file.write_bytes(b"[[budget]]\nname = '\xff'\n")
    with pytest.raises(PolicyError, match="not valid TOML"):
        load(str(file))


def test_a_file_that_is_not_there_enforces_nothing_and_is_logged(monkeypatch, caplog):
    api.reset()
    monkeypatch.setenv("SPANLEDGER_LIMITS", "/nowhere/limits.toml")
    allowed = spanledger.check_request_allowed(
        provider="openai", model="gpt-5.4-mini", input_tokens=1, max_output_tokens=1
    )
    assert allowed == Decision(True).as_dict()
    assert "no limits are enforced: SPANLEDGER_LIMITS=/nowhere/limits.toml cannot be read" in caplog.text
    api.reset()


# --- the store: in this process, and in Redis -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis(tmp_path_factory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(params=["memory", "redis"])
def store(request, redis: RedisServer) -> Store:
    if request.param == "memory":
        return MemoryStore()
    made = RedisStore(redis.url, deadline=2.0)
    made._client.flushall()
    return made


def account(key: str = "a", usd: float = 1, lives: int = 60) -> BudgetCounter:
    return BudgetCounter(key, int(usd * USD), lives)


def test_what_is_held_counts_until_the_cost_is_known(store: Store):
    assert store.reserve("r1", [account()], 6 * USD // 10) == (None, [0])
    assert store.balance("a") == (0, 6 * USD // 10)
    assert store.reserve("r2", [account()], 5 * USD // 10).full_index == 0
    store.settle("r1", [account()], 6 * USD // 10, 2 * USD // 10)
    assert store.balance("a") == (2 * USD // 10, 0)
    assert store.reserve("r2", [account()], 8 * USD // 10) == (None, [2 * USD // 10])


def test_all_accounts_or_none(store: Store):
    assert store.reserve("r1", [account("a", 1), account("b", 0.5)], 6 * USD // 10).full_index == 1
    assert store.balance("a") == (0, 0)
    assert store.reserve("r1", [account("a", 1), account("b", 0.5)], 4 * USD // 10).full_index is None
    assert store.balance("a") == store.balance("b") == (0, 4 * USD // 10)


def test_what_was_abandoned_is_free_again_and_a_late_cost_counts_all_the_same(store: Store, monkeypatch):
    for module in (memory_store, redis_store):
        monkeypatch.setattr(module, "HOLD_SECONDS", 0.2)
    assert store.reserve("r1", [account()], USD).full_index is None
    assert store.reserve("r2", [account()], USD).full_index == 0
    time.sleep(0.25)
    assert store.reserve("r2", [account()], USD // 2).full_index is None
    store.settle("r1", [account()], USD, USD // 4)
    assert store.balance("a") == (USD // 4, USD // 2)


def test_sums_are_exact_beyond_what_a_double_holds(store: Store):
    for number in range(3):
        store.settle(f"r{number}", [account("big", 900_000)], 0, 3 * 10**16 + 1)
    assert store.balance("big") == (9 * 10**16 + 3, 0)


# --- the limiter -----------------------------------------------------------------------------------------------------------


def limiter_of(store: Store, *budgets: Budget, now=None, **caps: int) -> Limiter:
    return Limiter(Policy(budgets, **caps), store, **({"now": lambda: now().timestamp()} if now else {}))


def test_the_order_is_size_then_hour_then_day_then_month(store: Store):
    at = datetime(2026, 3, 31, 22, 59, 30, tzinfo=UTC)
    found = policy_from_document({"budget": [
        {"name": "m", "window": "month", "amount_usd": 3, "action": "block"}, {"name": "d", "window": "day", "amount_usd": 2, "action": "block"}, {"name": "h", "window": "hour", "amount_usd": 1, "action": "block"},
    ], "request": {"max_output_tokens": 100}})  # fmt: skip
    limiter = Limiter(found, store, lambda: at.timestamp())  # noqa: PLW0108 - `at` changes
    asked = Dimensions(user="ada")
    assert limiter.check(asked, USD, 5, 101) == Decision(
        False, "the request may use 101 tokens of output, and 100 are allowed"
    )
    for hour in (22, 23):
        at = datetime(2026, 3, 31, hour, 59, 30, tzinfo=UTC)
        assert limiter.check(asked, USD).allowed
        assert limiter.check(asked, USD)[:3] == (False, "budget 'h': $1 for the hour is used up", 30)
    at = datetime(2026, 3, 31, 23, 59, 30, 500_000, tzinfo=UTC)
    assert limiter.check(asked, USD)[:3] == (False, "budget 'h': $1 for the hour is used up", 30)
    at = datetime(2026, 4, 1, tzinfo=UTC)
    assert limiter.check(asked, USD).allowed
    at = datetime(2026, 4, 1, 1, tzinfo=UTC)
    assert limiter.check(asked, USD).allowed
    at = datetime(2026, 4, 1, 2, 0, 1, tzinfo=UTC)
    assert limiter.check(asked, USD)[:3] == (False, "budget 'd': $2 for the day is used up", 22 * 3600 - 1)
    at = datetime(2026, 4, 2, 2, tzinfo=UTC)
    assert limiter.check(asked, USD).allowed
    at = datetime(2026, 4, 3, tzinfo=UTC)
    assert limiter.check(asked, USD)[:3] == (False, "budget 'm': $3 for the month is used up", 28 * 86_400)


def test_each_user_has_an_hour_of_their_own_and_scopes_narrow(store: Store):
    limiter = limiter_of(store, blocking("u", "hour", USD, {"tier": "free"}, "user"))
    assert limiter.check(Dimensions(user="ada", tier="free"), USD).allowed
    assert not limiter.check(Dimensions(user="ada", tier="free"), USD).allowed
    assert limiter.check(Dimensions(user="bob", tier="free"), USD).allowed
    assert limiter.check(Dimensions(user="ada", tier="pro"), USD).reservation == ""
    assert limiter.check(Dimensions(user=None, tier="free"), USD).reservation == ""


def test_thresholds_are_told_once_each_in_a_window_over_all_who_ask(store: Store, caplog):
    at = datetime(2026, 3, 31, 22, tzinfo=UTC)
    limit = Budget("u", "day", USD, {}, "user")
    first, second = (Limiter(Policy((limit,)), store, lambda: at.timestamp()) for _ in range(2))  # noqa: PLW0108
    said = []
    for number in range(12):
        limiter = (first, second)[number % 2]
        found = limiter.check(Dimensions(user="ada"), USD // 5)
        assert found.allowed, "it warns, and refuses nothing"
        said.append(found.warnings)
        limiter.settle(found.reservation, USD // 10)
    assert said == [()] * 8 + [("u 80%",), ("u 90%",), ("u 100%",), ("u 100%",)], "of what was spent before each call"
    lines = [record.message for record in caplog.records]
    assert lines == [f"budget 'u' of one user: {n}% of $1 for the day is spent" for n in (80, 90, 100)]
    first.settle(first.check(Dimensions(user="bob"), 95 * USD // 100).reservation, 95 * USD // 100)
    at = datetime(2026, 4, 1, tzinfo=UTC)
    second.settle(second.check(Dimensions(user="ada"), USD).reservation, USD * 2)
    assert second.check(Dimensions(user="ada"), USD).warnings == ("u 100%",)
    assert len(caplog.records) == 5


def test_a_failed_call_frees_all_and_a_cost_counts_once(store: Store):
    limiter = limiter_of(store, blocking("all", "month", USD))
    first = limiter.check(Dimensions(), USD)
    assert limiter.settle(first.reservation, 0)
    second = limiter.check(Dimensions(), USD)
    assert limiter.settle(second.reservation, USD // 2)
    assert not limiter.settle(second.reservation, USD // 2)
    assert limiter.check(Dimensions(), USD // 2).allowed


def test_a_model_without_a_price_passes_unless_the_limit_fails_closed(store: Store):
    assert limiter_of(store, blocking("open", "hour", USD)).check(Dimensions(), None).allowed
    refused = limiter_of(store, blocking("closed", "hour", USD, fail_closed=True)).check(Dimensions(), None)
    assert (refused.allowed, refused.reason) == (
        False,
        "budget 'closed': the model has no price and the budget fails closed",
    )


@pytest.mark.parametrize("seed", range(50))
def test_a_hundred_at_once_never_pass_the_limit_by_more_than_the_error_of_their_estimates(seed: int):
    """Threads over the store in memory; what a call really costs differs from the estimate either way."""
    chance = random.Random(seed)
    store = MemoryStore()
    limiter = limiter_of(store, blocking("all", "month", USD), blocking("u", "month", USD // 2, {}, "user"))
    plans = [
        (chance.randrange(1, USD // 20), chance.choice([0.0, 0.5, 1.0, 1.2]), chance.random() < 0.1) for _ in range(100)
    ]
    spent: list[int] = []
    error: list[int] = []

    def one(number: int) -> None:
        estimate, factor, failed = plans[number]
        found = limiter.check(Dimensions(user=f"u{number % 5}"), estimate)
        if found.allowed:
            actual = 0 if failed else int(estimate * factor)
            spent.append(actual)
            error.append(max(0, actual - estimate))
            limiter.settle(found.reservation, actual)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(spent) <= USD + sum(error)
    for key in store._balances:
        assert store.balance(key)[1] == 0, "nothing is held any more"
    [month] = [key for key in store._balances if key.startswith("all")]
    assert store.balance(month)[0] == sum(spent)


CALLER = """
import json, random, sys, threading, time
from spanledger.limits.limiter import Limiter
from spanledger.limits.policy import Budget, Dimensions, Policy
from spanledger.limits.store.redis import RedisStore
url, number, callers, calls, deadline, fail_closed, seconds, most, most_pause = sys.argv[1], *(float(word) for word in sys.argv[2:])
print("ready", flush=True)
for line in sys.stdin:
    seed = int(line)
    chance = random.Random(seed * 100 + number)
    budget = Budget(f"all {seed}", "month", 10**12, action="block", fail_closed=bool(fail_closed))
    limiter = Limiter(Policy((budget,)), RedisStore(url, deadline), settlement_store=RedisStore(url, max(deadline, 2.0)))
    told = []
    def one(estimate, actual, pause):
        began = time.monotonic()
        found = limiter.check(Dimensions(), estimate)
        took = time.monotonic() - began
        if found.allowed:
            time.sleep(pause)
            limiter.settle(found.reservation, actual)
            told.append((found.reason, estimate, actual, found.reservation, took))
        elif deadline < 1:
            time.sleep(0.01)
    until = time.monotonic() + seconds
    def caller(plans):
        for plan in plans:
            one(*plan)
            if seconds and time.monotonic() > until: break
    def plan():
        estimate = chance.randrange(1, int(most))
        return estimate, int(estimate * chance.choice([0, 0.4, 1, 1.1])), chance.random() * float(most_pause)
    threads = [threading.Thread(target=caller, args=([plan() for _ in range(int(calls))],)) for _ in range(int(callers))]
    [t.start() for t in threads]; [t.join() for t in threads]
    limiter.flush(120)  # a disk that is written at once and shared with other tests takes its time
    print(json.dumps({"told": told, "waiting": limiter.pending_settlements, "lost": limiter.lost_settlements, "counted": limiter.outcome_counts, "unanswered": limiter.store_failures}), flush=True)
"""


class Callers:
    """Processes with many threads each, which spend a dollar together, as often as they are told to."""

    def __init__(
        self, url: str, processes: int = 4, threads: int = 25, calls: int = 3, deadline: float = 5.0, fail_closed: bool = False,
        seconds: float = 0, most: int = USD // 40, most_pause: float = 0.004,
    ) -> None:  # fmt: skip
        """`seconds`: how long a run takes, if it has calls enough (0: all of them); `most`: what a call may cost;
        `most_pause`: how many seconds a call may take."""
        words = [str(each) for each in (threads, calls, deadline, int(fail_closed), seconds, most, most_pause)]
        self.running = [
            subprocess.Popen(
                [sys.executable, "-c", CALLER, url, str(number), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            for number in range(processes)
        ]  # fmt: skip
        for process in self.running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def begin(self, seed: int) -> None:
        for process in self.running:
            assert process.stdin is not None
            process.stdin.write(f"{seed}\n")

    def told(self) -> list[dict[str, Any]]:
        """What each process has to say of the run that was begun."""
        found: list[dict[str, Any]] = []
        for process in self.running:
            assert process.stdout is not None
            found.append(json.loads(process.stdout.readline()))
            assert (found[-1]["waiting"], found[-1]["lost"]) == (0, {}), "all costs have been told"
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        """End the processes; after a failure, at once."""
        for process in self.running:
            if failure[0] is not None:
                process.kill()
            process.communicate(timeout=60)
            assert failure[0] is not None or process.returncode == 0


def sums(found: list[dict[str, Any]]) -> tuple[int, int]:
    """(what was spent, by how much calls cost more than their estimates)."""
    calls = [call for each in found for call in each["told"]]
    return sum(call[2] for call in calls), sum(max(0, call[2] - call[1]) for call in calls)


def account_of(store: RedisStore, seed: int) -> str:
    [key] = [
        key.decode()
        for key in store._client.keys(f"*all {seed}\x1f*")
        if not key.endswith((b":holds", b":told", b":seen"))
    ]
    return key.removeprefix(redis_store.PREFIX)


def test_a_hundred_callers_in_four_processes_never_pass_a_dollar(redis: RedisServer):
    """Fifty runs: nothing is spent beyond the dollar and the declared error, nothing stays held, every cost is counted."""
    store = RedisStore(redis.url, deadline=2.0)
    store._client.flushall()
    with Callers(redis.url) as callers:
        for seed in range(50):
            callers.begin(seed)
            found = callers.told()
            spent, error = sums(found)
            assert USD // 2 < spent <= USD + error, seed
            key = account_of(store, seed)
            assert store.balance(key) == (spent, 0), seed
            assert not store._client.exists(f"{redis_store.PREFIX}{key}:holds"), seed
            assert sum(each["counted"].get("refused", 0) for each in found) > 0, seed
            assert all(each["unanswered"] == 0 for each in found), seed


def test_an_amount_of_nothing_leaves_redis_in_order(redis: RedisServer, monkeypatch):
    """Redis refuses HINCRBY by -0: what is held of a model without a price must not stop what comes after it."""
    monkeypatch.setattr(redis_store, "HOLD_SECONDS", 0.2)
    store = RedisStore(redis.url, deadline=2.0)
    store._client.flushall()
    limiter = limiter_of(store, blocking("all", "month", USD))
    unpriced = limiter.check(Dimensions(), None)
    assert limiter.settle(unpriced.reservation, USD // 2)
    abandoned = limiter.check(Dimensions(), 0)
    assert abandoned.reservation
    time.sleep(0.3)
    assert not limiter.check(Dimensions(), USD).allowed
    assert limiter.store_failures == 0
    assert store.balance(held_account(limiter)) == (USD // 2, 0)


def test_a_cost_that_is_told_twice_because_no_answer_came_counts_once(redis: RedisServer):
    store = RedisStore(redis.url, deadline=2.0)
    store._client.flushall()
    store.reserve("r", [account()], 5)
    assert [store.settle("r", [account()], 5, 3) for _ in range(2)] == [[3], [3]]
    assert store.balance("a") == (3, 0)


def test_many_users_cost_no_more_than_few():
    """What is known of other users is not copied for each that comes."""
    store = MemoryStore()
    limiter = limiter_of(store, blocking("u", "month", USD, {}, "user"))
    limiter.settle(limiter.check(Dimensions(user="u0"), 5).reservation, 5)
    known = store._balances
    for number in range(8000):
        limiter.settle(limiter.check(Dimensions(user=f"u{number}"), 5).reservation, 5)
    assert store._balances is known
    assert not limiter.check(Dimensions(user="refused"), 2 * USD).allowed
    assert len(known) == 8000, "who is refused takes no room"


def test_a_budget_that_asks_for_another_model_is_looked_at_before_one_that_refuses(store: Store):
    """The hour has no room for the big model; the month asks for the small one, and for that there is room."""
    prices = {"big": 12 * USD // 10, "small": USD // 10}
    policy = Policy(
        (blocking("hour", "hour", USD), Budget("month", "month", USD // 10, action="downgrade")), features={"*": Rule({"big": "small"})}
    )  # fmt: skip
    question = Question("big", prices.get)
    found = Limiter(policy, store).check(Dimensions(), prices["big"], request_estimate=question)
    assert (found.allowed, found.model) == (True, "small")
    unpriced = Question("big", {"big": prices["big"]}.get)
    assert not Limiter(policy, store).check(Dimensions(), prices["big"], request_estimate=unpriced).allowed, (
        "a model without a price is no saving"
    )


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
def test_a_published_document_that_makes_no_sense_changes_nothing(text: str, redis: RedisServer, caplog):
    store = RedisStore(redis.url, deadline=2.0)
    store._client.flushall()
    store.publish(text)
    limiter = limiter_of(store, blocking("all", "month", USD))
    assert limiter.check(Dimensions(), 1).reservation
    assert "the previous budgets stay in force" in caplog.text
    store._client.flushall()


def test_at_a_cold_start_everybody_waits_for_what_is_stopped(redis: RedisServer):
    store = RedisStore(redis.url, deadline=2.0)
    store._client.flushall()
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
    store._client.flushall()


def test_what_was_never_heard_is_not_passed_off_as_allowed():
    limiter = Limiter(Policy(), RedisStore("redis://127.0.0.1:9/0"))
    assert limiter.check(Dimensions(), 1)[:2] == (True, "store")
    assert (limiter.outcome_counts, limiter.store_failures) == ({"unenforced": 1}, 1)


# --- when Redis is away ------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.stop()


def eventually(held, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(StoreError):
            if held():
                return True
        time.sleep(0.1)
    return False


def held_account(limiter: Limiter) -> str:
    [plan] = limiter._policy_feed._matches[1].values()
    return plan.accounts[0].key


def test_a_reservation_whose_answer_comes_too_late_is_free_when_its_process_has_ended(own_redis: RedisServer):
    """Redis takes longer than a call may wait, and only then does what it was asked: the call was refused long before."""
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
    key = held_account(limiter)
    assert settling.balance(key) == (1, 0)
    assert not settling._client.exists(f"{redis_store.PREFIX}{key}:holds")


def test_a_store_that_is_gone_lets_pass_or_refuses_as_the_limit_says(own_redis: RedisServer, caplog):
    store = RedisStore(own_redis.url)
    opened, closed = (
        limiter_of(store, blocking("o", "hour", USD)),
        limiter_of(store, blocking("c", "hour", USD, fail_closed=True)),
    )
    held = opened.check(Dimensions(), USD // 2)
    assert held.reservation
    own_redis.stop()
    assert opened.check(Dimensions(), USD)[:2] == (True, "store")
    refused = closed.check(Dimensions(), USD)
    assert (refused.allowed, refused.retry_after_seconds) == (False, 1)
    assert "Redis does not answer" in refused.reason
    assert not opened.settle(held.reservation, USD // 4)
    assert opened.store_failures == 1, "it was left alone for a while"
    assert caplog.text.count("limits are not enforced") == 2, "once for each limiter"
    own_redis.start()
    assert eventually(lambda: store.balance(held_account(opened)) == (USD // 4, 0)), "the cost is told when it is back"
    assert opened.check(Dimensions(), USD // 2).reason == ""


def test_a_store_that_is_slow_costs_its_deadline_and_no_more(own_redis: RedisServer):
    limiter = limiter_of(RedisStore(own_redis.url), blocking("o", "hour", USD))
    assert limiter.check(Dimensions(), 1).reservation
    own_redis.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert limiter.check(Dimensions(), 1)[:2] == (True, "store")
        assert time.monotonic() - began < 0.5
    finally:
        own_redis.signal(signal.SIGCONT)


def test_however_many_users_there_are_what_everybody_has_spent_is_known(monkeypatch, caplog):
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
    assert not limiter.check(Dimensions(user="heavy"), 6 * USD // 10).allowed, "the smallest are forgotten first"
    assert "the smallest are evicted" in caplog.text


def test_what_arrives_after_its_end_holds_nothing(redis: RedisServer):
    """A reservation that was long under way: its caller has given up, and freed it."""
    store = RedisStore(redis.url, deadline=2.0)
    store._client.flushall()
    asked = [account("a"), account("b")]
    store.settle("late", asked, 500, 0)
    assert store.reserve("late", asked, 500).full_index == 0
    assert store.balance("a") == store.balance("b") == (0, 0)


def test_what_several_processes_tell_counts_once_in_each_account(redis: RedisServer):
    """Whoever asks for the result of a background response may not be whom it was made for."""
    store = RedisStore(redis.url, deadline=2.0)
    store._client.flushall()
    everybody, ada = account("all"), account("ada")
    assert store.settle("openai:r1", [everybody], 0, 1000, cross_process=True) == [1000]
    assert store.settle("openai:r1", [everybody, ada], 0, 1000, cross_process=True) == [1000, 1000]
    assert store.settle("openai:r1", [everybody, ada], 0, 1000, cross_process=True) == [1000, 1000]
    assert store.settle("openai:r2", [everybody, ada], 0, 1, cross_process=True) == [1001, 1001]


def test_a_cost_that_redis_refuses_keeps_no_other_from_being_counted(redis: RedisServer):
    store = RedisStore(redis.url, deadline=2.0)
    store._client.flushall()
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
    ("said", "doubtful", "refused"),
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
def test_what_redis_says_no_to_was_not_done(redis: RedisServer, said: str, doubtful: bool, refused: bool):
    from redis._parsers.base import BaseParser

    store = RedisStore(redis.url, deadline=2.0)
    with pytest.raises(StoreError) as told, store._mapped_errors():
        raise BaseParser.parse_error(said)
    assert (told.value.outcome_unknown, told.value.refused) == (doubtful, refused)


def test_what_no_answer_came_to_may_have_been_done(own_redis: RedisServer):
    store = RedisStore(
        f"{own_redis.url}?socket_timeout=5&socket_connect_timeout=5&decode_responses=true", deadline=0.05
    )
    assert store.controls().stopped == frozenset()
    own_redis.signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreError) as told:
            store.controls()
        assert told.value.outcome_unknown
        assert store._client.connection_pool.connection_kwargs["socket_timeout"] == 0.05, "whatever the address says"
    finally:
        own_redis.signal(signal.SIGCONT)
    own_redis.stop()
    with pytest.raises(StoreError) as told:
        RedisStore(own_redis.url).controls()
    assert not told.value.outcome_unknown, "nobody was there"


def test_a_redis_that_has_lost_its_data_opens_nothing(redis: RedisServer, monkeypatch, caplog):
    monkeypatch.setattr(policy_feed, "POLL_INTERVAL_SECONDS", 0)
    store = RedisStore(redis.url, deadline=2.0)
    store._client.flushall()
    found = {"budget": [{"name": "all", "window": "month", "amount_usd": 1, "action": "block"}]}
    store.publish(json.dumps(found))
    store.stop("user=eve")
    limiter = Limiter(Policy(), store)
    assert limiter.check(Dimensions(user="ada"), USD // 2).allowed
    store._client.flushall()
    assert not limiter.check(Dimensions(user="ada"), 2 * USD).allowed
    assert "is stopped" in limiter.check(Dimensions(user="eve"), 1).reason
    assert caplog.text.count("Redis has lost the published budgets") == 1
    store.stop("user=bob")
    assert "is stopped" in limiter.check(Dimensions(user="bob"), 1).reason, "what is stopped meanwhile is, too"
    store.publish(json.dumps({"budget": []}))
    assert limiter.check(Dimensions(user="ada"), 2 * USD).allowed
    assert limiter.check(Dimensions(user="eve"), 1).allowed


def test_a_name_that_takes_seconds_to_resolve_holds_nobody_up(redis: RedisServer, monkeypatch):
    resolving = threading.Event()
    before = set(threading.enumerate())
    real = socket.getaddrinfo

    def slow(*arguments: Any, **options: Any) -> Any:
        resolving.wait(30)
        return real(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    store = RedisStore(redis.url, deadline=0.05)
    for _ in range(3):
        with pytest.raises(StoreError) as told:
            store.controls()
        assert not told.value.outcome_unknown
    connecting = [thread for thread in set(threading.enumerate()) - before if thread.name == "spanledger-redis"]
    assert len(connecting) == 1, "the others wait for the same attempt"
    resolving.set()
    connecting[0].join(10)
    assert eventually(store.controls), "it is connected by now"


CHILDREN = """
import multiprocessing, sys
from spanledger.limits.limiter import Limiter
from spanledger.limits import api as asking; from spanledger.limits.store import memory as memory_store, redis as redis_store
asked = dict(provider="openai", model="gpt-5.4-mini", input_tokens=1000, max_output_tokens=100, user="ada")
def work():
    found = asking.check_request_allowed(**asked)
    limiter = asking.limiter_from_settings()
    limiter._open_reservations.pop(found["reservation"]).count(7)  # as a call does: a thread tells it
if __name__ == "__main__":
    asking.check_request_allowed(**asked)
    children = [multiprocessing.get_context("fork").Process(target=work) for _ in range(12)]
    [child.start() for child in children]
    [child.join() for child in children]
    sys.exit(sum(child.exitcode for child in children))
"""


def test_the_last_cost_of_a_child_is_told_before_it_ends(redis: RedisServer, tmp_path: Path):
    """Children of multiprocessing end without atexit."""
    store = RedisStore(redis.url, deadline=2.0)
    store._client.flushall()
    file = tmp_path / "limits.toml"
    file.write_text('[[budget]]\nname = "all 1"\nwindow = "month"\namount_usd = 1\naction = "block"\n')
    env = {**os.environ, "SPANLEDGER_LIMITS": str(file), "SPANLEDGER_REDIS_URL": redis.url}
    (tmp_path / "children.py").write_text(CHILDREN)
    subprocess.run([sys.executable, "children.py"], cwd=tmp_path, env=env, check=True, timeout=60)
    held = store._client.zcard(f"{redis_store.PREFIX}{account_of(store, 1)}:holds")
    assert (store.balance(account_of(store, 1))[0], held) == (12 * 7, 1), "that of the parent was never told"


@pytest.mark.parametrize(("fail_closed", "fault"), [(False, "kill"), (True, "kill"), (False, "pause"), (True, "pause")])
def test_redis_is_killed_or_paused_in_the_middle_of_a_run(tmp_path: Path, fail_closed: bool, fault: str):
    """Fail closed: the dollar is never passed. Fail open: callers go on, and in the end every cost is counted once."""
    server = RedisServer(tmp_path, durable=True)
    seed = 7
    try:
        with Callers(
            server.url, 3, 10, 5000, 0.25, fail_closed, seconds=4, most=USD // 2000, most_pause=0.02
        ) as callers:
            callers.begin(seed)
            store = RedisStore(server.url, deadline=2.0)
            assert eventually(lambda: store._client.keys(f"*all {seed}\x1f*")), "they have begun"
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
            found = callers.told()
        spent, error = sums(found)
        key = account_of(store, seed)
        assert store.balance(key)[0] == spent, "each cost once"
        held = {
            name.decode().rpartition(":")[0] for name in store._client.zrange(f"{redis_store.PREFIX}{key}:holds", 0, -1)
        }
        assert not held & {call[3] for each in found for call in each["told"]}, "what was allowed is not held any more"
        assert sum(each["unanswered"] for each in found) > 0
        assert max(call[4] for each in found for call in each["told"]) < 2.0
        unasked = [call for each in found for call in each["told"] if call[0] == "store"]
        if fail_closed:
            assert spent <= USD + error
            assert not unasked
        else:
            assert unasked
    finally:
        server.stop()


def test_an_address_that_is_none_is_said_without_a_secret():
    with pytest.raises(StoreError, match="is not a valid Redis URL"):
        RedisStore("http://user:s3cret@h")


# --- estimates, and the functions for one's own code ---------------------------------------------------------------------------


@given(st.text(max_size=200))
def test_no_text_has_more_tokens_than_its_bound(text: str):
    assert text_tokens(text) >= len(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    "usage",
    [
        {"input": 1000, "output": 50},
        {"input": 1000, "output": 50, "cache_read": 900},
        {"input": 1000, "output": 50, "cache_write": 1000},
        {"input": 1000, "output": 50, "cache_write": 1000, "cache_write_1h": 1000},
        {"input": 1000, "output": 50, "reasoning": 50},
    ],
)
@pytest.mark.parametrize(
    ("provider", "model"),
    [("anthropic", "claude-sonnet-4-6"), ("openai", "gpt-5.4-mini"), ("gcp.gemini", "gemini-3.5-flash")],
)
def test_no_way_of_charging_is_dearer_than_the_estimate(usage, provider, model):
    total = quote(provider, model, usage).total_picousd
    estimate = max_cost_picousd(provider, model, 1000, 50)
    assert estimate is not None
    assert total is None or total <= estimate


@given(st.integers(0, 10**9))
def test_a_step_up_is_a_thirty_second_at_most(tokens: int):
    assert tokens <= bucketed(tokens) <= tokens + tokens // 32 + 1


def test_ones_own_code_asks_and_tells(tmp_path: Path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    api.reset()
    file = tmp_path / "limits.toml"
    file.write_text('[[budget]]\nname = "u"\nwindow = "day"\nper = "user"\namount_usd = 0.02\naction = "block"\n')
    monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
    asked = {
        "provider": "anthropic",
        "model": "claude-sonnet-4-6",
        "input_tokens": 1000,
        "max_output_tokens": 500,
        "user": "ada",
    }
    first = spanledger.check_request_allowed(**asked)
    assert (first["allowed"], first["reason"], first["retry_after_seconds"]) == (True, "", 0)
    second = spanledger.check_request_allowed(**asked)
    assert (second["allowed"], second["reason"]) == (False, "budget 'u': $0.02 for the day is used up")
    assert 0 < second["retry_after_seconds"] <= 86_400
    assert spanledger.record_actual_cost(first["reservation"], Decimal("0.004"))
    assert spanledger.check_request_allowed(**asked)["allowed"]
    assert not spanledger.record_actual_cost("", 1)
    api.reset()


def test_a_process_has_one_limiter_however_many_ask_first(tmp_path: Path, monkeypatch):
    api.reset()
    file = tmp_path / "limits.toml"
    file.write_text('[[budget]]\nname = "all"\nwindow = "day"\namount_usd = 0.02\naction = "block"\n')
    monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
    asked = {"provider": "anthropic", "model": "claude-sonnet-4-6", "input_tokens": 1000, "max_output_tokens": 500}
    found: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: found.append(spanledger.check_request_allowed(**asked))) for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each["allowed"] for each in found) == 1
    api.reset()


def test_own_code_names_people_as_rows_do(tmp_path: Path, monkeypatch, caplog):
    from spanledger.context import baggage as baggage_attribution

    api.reset()
    file = tmp_path / "limits.toml"
    file.write_text('[[budget]]\nname = "u"\nwindow = "day"\nper = "user"\namount_usd = 1\n')
    monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
    monkeypatch.setenv("SPANLEDGER_HASH_USER_ID", "secret")
    baggage_attribution._hashing_key.cache_clear()
    try:
        found = spanledger.check_request_allowed(
            provider="openai", model="gpt-5.4-mini", input_tokens=1, max_output_tokens=1, user="ada\x1f\ud800"
        )
        assert found["allowed"]
        limiter = api.limiter_from_settings()
        assert limiter is not None
        assert held_account(limiter).split("\x1f")[1] == baggage_attribution.pseudonym("ada", b"secret")
        for cost in ("-1", "nan", "much", Decimal("Infinity"), "1e9"):
            assert not spanledger.record_actual_cost(found["reservation"], cost)
        assert caplog.text.count("is not a valid cost in USD") == 5
        assert spanledger.record_actual_cost(found["reservation"], "0.5"), "it was still open"
    finally:
        baggage_attribution._hashing_key.cache_clear()
        api.reset()


def test_a_forked_child_asks_by_itself_even_where_its_parent_held_the_lock(tmp_path: Path, monkeypatch):
    file = tmp_path / "limits.toml"
    file.write_text('[[budget]]\nname = "all"\nwindow = "day"\namount_usd = 1\n')
    code = """
import os, spanledger, sys
from spanledger.limits.api import limiter_from_settings
asked = dict(provider="openai", model="gpt-5.4-mini", input_tokens=10, max_output_tokens=10)
first = spanledger.check_request_allowed(**asked)
with limiter_from_settings()._store._lock:
    child = os.fork()
    if child == 0:
        second = spanledger.check_request_allowed(**asked)
        os._exit(0 if second["allowed"] and second["reservation"] != first["reservation"] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
