"""Processes of many threads that spend one dollar together in Redis, as often as a test starts a run."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Self

from limiters import USD

PROGRAM = """
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
    settled = []
    def one(estimate, actual, pause):
        began = time.monotonic()
        decision = limiter.check(Dimensions(), estimate)
        took = time.monotonic() - began
        if decision.allowed:
            time.sleep(pause)
            limiter.settle(decision.reservation, actual)
            settled.append((decision.reason, estimate, actual, decision.reservation, took))
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
    print(json.dumps({"settled": settled, "waiting": limiter.pending_settlements, "lost": limiter.lost_settlements, "counted": limiter.outcome_counts, "unanswered": limiter.store_failures}), flush=True)
"""


class SpendingProcesses:
    """Processes of many threads each, which spend a dollar together in each run."""

    def __init__(
        self, url: str, processes: int = 4, threads: int = 25, calls: int = 3, deadline: float = 5.0, fail_closed: bool = False,
        seconds: float = 0, most: int = USD // 40, most_pause: float = 0.004,
    ) -> None:  # fmt: skip
        """`seconds`: length of a run, if it has calls enough (0: all of them); `most`: the highest estimate of a call
        (picodollars); `most_pause`: the longest duration of a call (seconds)."""
        words = [str(word) for word in (threads, calls, deadline, int(fail_closed), seconds, most, most_pause)]
        self.running = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, url, str(number), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
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

    def reports(self) -> list[dict[str, Any]]:
        """The report of each process of the run that was begun; all of its costs are settled."""
        reports: list[dict[str, Any]] = []
        for process in self.running:
            assert process.stdout is not None
            report = json.loads(process.stdout.readline())
            assert (report["waiting"], report["lost"]) == (0, {}), "all costs are settled"
            reports.append(report)
        return reports

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        """End the processes; after a failure, at once."""
        for process in self.running:
            if failure[0] is not None:
                process.kill()
            process.communicate(timeout=60)
            assert failure[0] is not None or process.returncode == 0


def sums(reports: list[dict[str, Any]]) -> tuple[int, int]:
    """(picodollars spent, picodollars by which calls cost more than their estimates)."""
    calls = [call for report in reports for call in report["settled"]]
    return sum(call[2] for call in calls), sum(max(0, call[2] - call[1]) for call in calls)
