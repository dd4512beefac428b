"""What a limit costs a call: nothing where none is in force, then in this process, then with Redis on loopback.

python benchmarks/bench_limits.py [--calls 5000]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from redis_server import RedisServer
from spanledger.limits.asking import configured
from spanledger.limits.estimate import body_tokens, worst_picousd
from spanledger.limits.limiter import Limiter
from spanledger.limits.policy import BLOCK, Budget, Policy
from spanledger.limits.store import MemoryStore, RedisStore, Store

LIMITS = tuple(
    Budget(name, name, 10**15, {}, per, action=BLOCK)
    for name, per in (("hour", "user"), ("day", "user"), ("month", ""))
)
BODY = {"model": "gpt-5.4-mini", "max_tokens": 500, "messages": [{"role": "user", "content": "word " * 400}]}


def measured(what: str, calls: int, act: Callable[[], object]) -> None:
    times: list[float] = []
    for _ in range(calls):
        began = time.perf_counter_ns()
        act()
        times.append((time.perf_counter_ns() - began) / 1000)
    times.sort()
    print(f"{what:<44} median {times[len(times) // 2]:9.2f} us   p99 {times[int(len(times) * 0.99)]:9.2f} us")


def once(limiter: Limiter) -> Callable[[], object]:
    def act() -> None:
        estimate = worst_picousd("openai", "gpt-5.4-mini", body_tokens(BODY), 500)
        limiter.settle(limiter.check({"user": "ada"}, estimate, 2000, 500).reservation, 10**8)

    return act


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--calls", type=int, default=5000)
    calls = arguments.parse_args().calls
    measured("no limits", calls, configured)
    measured(
        "the estimate alone (2 KB of text)",
        calls,
        lambda: worst_picousd("openai", "gpt-5.4-mini", body_tokens(BODY), 500),
    )
    with tempfile.TemporaryDirectory() as directory:
        server = RedisServer(Path(directory))
        try:
            stores: list[tuple[str, Store]] = [
                ("in this process", MemoryStore()),
                ("in Redis on loopback", RedisStore(server.url)),
            ]
            for name, store in stores:
                measured(f"estimate, hold and count, {name}", calls, once(Limiter(Policy(LIMITS), store)))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
