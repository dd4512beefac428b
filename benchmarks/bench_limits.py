"""What budgets cost a call: nothing where none is enforced, then in this process, then with Redis on loopback.

python benchmarks/bench_limits.py [--calls 5000]

Three budgets count each call: an hour and a day of its user, a month of everybody. "the hook" is all that a call of an SDK
does because of them in the thread that makes it: reading who asks, the estimate from its body (2 KB), the hold, and the
count of its cost. With Redis a thread waits 2 ms between calls, as it would for an answer: the cost is told meanwhile. A PING
with the same pause is what the machine takes to wake up two processes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import redis
from opentelemetry import trace

import spanledger
from redis_server import RedisServer
from spanledger.capture import admission
from spanledger.capture.call import Call
from spanledger.limits.estimate.token_bound import body_tokens
from spanledger.limits.estimate.worst_case import max_cost_picousd
from spanledger.limits.limiter import Limiter
from spanledger.limits.policy import BLOCK, Budget, Dimensions, Policy
from spanledger.limits.store.memory import MemoryStore
from spanledger.limits.store.protocol import Store
from spanledger.limits.store.redis import RedisStore
from spanledger.providers import openai

BUDGETS = tuple(
    Budget(name, name, 10**15, {}, per, action=BLOCK)
    for name, per in (("hour", "user"), ("day", "user"), ("month", ""))
)
BODY = {"model": "gpt-5.4-mini", "max_tokens": 500, "messages": [{"role": "user", "content": "word " * 400}]}
COST = 10**8
PAUSE_SECONDS = 0.002


def measured(
    what: str, calls: int, act: Callable[[Any], object], ready: Callable[[], Any] = lambda: None, pause: float = 0
) -> tuple[float, float]:
    """Print the median and the 99th percentile (microseconds) of `act(ready())`; `ready` and the pause before it are not counted."""
    times: list[float] = []
    for _ in range(calls):
        given = ready()
        if pause:
            time.sleep(pause)
        began = time.perf_counter_ns()
        act(given)
        times.append((time.perf_counter_ns() - began) / 1000)
    times.sort()
    median, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
    print(f"{what:<44} median {median:9.2f} us   p99 {p99:9.2f} us")
    return median, p99


def begun() -> Call:
    request = openai.request("POST", "/v1/chat/completions", BODY)
    assert request is not None
    return Call(trace.NoOpTracer(), openai, request, "openai", ("api.openai.com", 443))


def asked(call: Call) -> None:
    admission.admit(call, BODY, lambda _: True)
    if call.on_end is not None:
        call.on_end(COST, True, "")


def held(limiter: Limiter) -> Callable[[Any], object]:
    who = Dimensions(user="ada", feature="f")
    return lambda _: limiter.settle(limiter.check(who, COST, 2000, 500).reservation, COST)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--calls", type=int, default=5000)
    calls = arguments.parse_args().calls
    measured("no budget enforced: the hook", calls, asked, begun)
    measured("the estimate alone", calls, lambda _: max_cost_picousd("openai", "gpt-5.4-mini", body_tokens(BODY), 500))
    with (
        tempfile.TemporaryDirectory() as directory,
        spanledger.attribution(user="ada", feature="f", request_id="r", tenant="t"),
    ):
        server = RedisServer(Path(directory))
        try:
            stores: list[tuple[str, Callable[[], Store]]] = [
                ("in this process", MemoryStore),
                ("in Redis on loopback", lambda: RedisStore(server.url)),
            ]
            with redis.Redis.from_url(server.url) as plain:
                measured("PING, Redis on loopback", calls, lambda _: plain.ping())
                ping = measured(
                    "PING, Redis on loopback, every 2 ms", calls, lambda _: plain.ping(), pause=PAUSE_SECONDS
                )
            for name, store in stores:
                limiter = Limiter(Policy(BUDGETS), store())
                measured(f"hold and count, at once, {name}", calls, held(limiter))
                limiter = Limiter(Policy(BUDGETS, enforce=True), store())
                with mock.patch.object(admission, "limiter_from_settings", lambda limiter=limiter: limiter):
                    took = measured(f"the hook, {name}", calls, asked, begun, PAUSE_SECONDS if "Redis" in name else 0)
                    limiter.flush(10)
            print(
                f"the hook in Redis / a PING                   median {took[0] / ping[0]:9.1f} x    p99 {took[1] / ping[1]:9.1f} x"
            )
        finally:
            server.stop()


if __name__ == "__main__":
    main()
