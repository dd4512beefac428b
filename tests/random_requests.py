"""A program of random requests: trees of tasks, threads, pools, timers and generators, whose every call says whose it truly is.

    python random_requests.py SEED REQUESTS [PEER]

prints one line of JSON: how many calls were made, how many have another user than the true one, how many have none, and how many of
those lack file and line. A call of a request that is open must have its user; one of what a request left running may have none.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import queue
import random
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind

import spanledger
from spanledger.context.runtime_context import WatchedRuntimeContext

USERS = [f"user-{number}" for number in range(50)]
DEPTH = 3
CONCURRENT = 20

_numbers = itertools.count()


def ask(user: str, *, is_open: bool) -> None:
    """One billed answer, for `user`; `is_open`: while his request is."""
    name = f"{user}|{'open' if is_open else 'left'}|{next(_numbers)}|{sys._getframe(1).f_code.co_name}"
    spanledger.record(provider="openai", model="gpt-4.1-mini", usage={"input": 10, "output": 5}, response_id=name)


class Workers:
    """Workers that the first request starts, and that serve all others; by bad luck, in its name."""

    def __init__(self) -> None:
        self.jobs: queue.Queue[str | None] = queue.Queue()
        self.pool = ThreadPoolExecutor(3)
        self.thread: threading.Thread | None = None
        self.task: asyncio.Task[None] | None = None
        self.tasks: asyncio.Queue[str] = asyncio.Queue()
        self.timer: threading.Timer | None = None
        self.timed: queue.Queue[str] = queue.Queue()
        self.is_over = False
        self.clients: asyncio.Queue[Client] = asyncio.Queue()
        for _ in range(3):
            self.clients.put_nowait(Client())

    def serve_in_thread(self, user: str) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._serve, daemon=True)
            self.thread.start()
        self.jobs.put(user)

    def _serve(self) -> None:
        while (user := self.jobs.get()) is not None:
            ask(user, is_open=False)

    def serve_in_task(self, user: str) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self._serve_async())
        self.tasks.put_nowait(user)

    async def _serve_async(self) -> None:
        while True:
            user = await self.tasks.get()
            await asyncio.sleep(0)
            ask(user, is_open=False)
            self.tasks.task_done()

    def serve_in_timer(self, user: str) -> None:
        self.timed.put(user)
        if self.timer is None:
            self._tick()

    def _tick(self) -> None:
        while not self.timed.empty():
            ask(self.timed.get(), is_open=False)
        if not self.is_over:
            self.timer = threading.Timer(0.005, self._tick)
            self.timer.daemon = True
            self.timer.start()

    async def stop(self) -> None:
        self.jobs.put(None)
        if self.thread is not None:
            await asyncio.to_thread(self.thread.join)
        await self.tasks.join()
        if self.task is not None:
            self.task.cancel()
        while not self.timed.empty():  # noqa: ASYNC110 - a timer is waited for
            await asyncio.sleep(0.01)
        self.is_over = True
        self.pool.shutdown()


class Client:
    """What is lent."""


@contextmanager
def acting_as(user: str) -> Generator[None]:
    """A helper of the application."""
    with spanledger.attribution(user=user, request_id="other"):
        yield


@contextmanager
def by_scope(user: str) -> Generator[None]:
    with spanledger.attribution(user=user, feature="f", request_id=f"r-{next(_numbers)}"):
        yield


@contextmanager
def by_baggage(user: str) -> Generator[None]:
    """As middleware of one's own does it, inside the server span of an instrumentation."""
    with trace.get_tracer("server").start_as_current_span("GET /", kind=SpanKind.SERVER):
        context = otel_context.get_current()
        for key, value in {"user.id": user, "feature": "f", "request.id": f"r-{next(_numbers)}"}.items():
            context = baggage.set_baggage(key, value, context)
        token = otel_context.attach(context)
        try:
            yield
        finally:
            otel_context.detach(token)


class Requests:
    """The requests of one run."""

    def __init__(self, seed: int, *, ways: Iterable[Any] = (by_scope, by_baggage)) -> None:
        self.dice = random.Random(seed)
        self.ways = list(ways)
        self.workers = Workers()
        self.left: list[asyncio.Task[None]] = []
        self.threads: list[threading.Thread] = []

    async def serve(self, user: str) -> None:
        with self.dice.choice(self.ways)(user):
            await self.tree(user, DEPTH)

    async def tree(self, user: str, depth: int) -> None:
        for _ in range(self.dice.randint(1, 3)):
            await self.dice.choice(self.steps(depth))(user, depth)

    def steps(self, depth: int) -> list[Callable[[str, int], Any]]:
        plain = [
            self.call, self.generator, self.pooled, self.thread, self.left_thread, self.worker, self.job, self.alias, self.message,
            self.lent,
        ]  # fmt: skip
        return plain if depth == 0 else [*plain, self.nested, self.gathered, self.left_task, self.async_generator]

    async def call(self, user: str, _: int) -> None:
        await asyncio.sleep(self.dice.random() / 1000)
        ask(user, is_open=True)

    async def nested(self, user: str, depth: int) -> None:
        with spanledger.feature("nested"):
            await self.tree(user, depth - 1)

    async def gathered(self, user: str, depth: int) -> None:
        await asyncio.gather(*(self.tree(user, depth - 1) for _ in range(2)))

    async def left_task(self, user: str, _: int) -> None:
        async def later() -> None:
            await asyncio.sleep(self.dice.random() / 20)
            ask(user, is_open=False)

        self.left.append(asyncio.create_task(later()))

    async def thread(self, user: str, _: int) -> None:
        thread = threading.Thread(target=ask, args=(user,), kwargs={"is_open": True})
        thread.start()
        await asyncio.to_thread(thread.join)

    async def left_thread(self, user: str, _: int) -> None:
        thread = threading.Timer(self.dice.random() / 20, ask, (user,), {"is_open": False})
        thread.start()
        self.threads.append(thread)

    async def pooled(self, user: str, _: int) -> None:
        job = self.workers.pool.submit(ask, user, is_open=True)
        await asyncio.wrap_future(job)

    async def generator(self, user: str, _: int) -> None:
        """A block around a `yield`, left early: whoever asks is somebody else."""
        other = self.dice.choice(USERS)

        enter = self.dice.choice([acting_as, lambda name: spanledger.attribution(user=name, request_id="other")])

        def items() -> Iterator[int]:
            with enter(other):
                for number in range(3):
                    ask(other, is_open=True)
                    yield number

        iterator = items()
        next(iterator)
        ask(user, is_open=True)
        if self.dice.random() < 0.5:
            next(iterator)
        ask(user, is_open=True)
        if self.dice.random() < 0.5:
            iterator.close()

    async def async_generator(self, user: str, _: int) -> None:
        first, second = self.dice.sample(USERS, 2)

        async def agent(other: str) -> AsyncIterator[int]:
            with spanledger.attribution(user=other, request_id=f"of {other}"):
                for number in range(3):
                    await asyncio.sleep(0)
                    ask(other, is_open=True)
                    yield number

        one, two = agent(first), agent(second)
        for _ in range(2):
            await anext(one)
            await anext(two)
            ask(user, is_open=True)
        if self.dice.random() < 0.5:
            await one.aclose()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        ask(user, is_open=True)

    async def job(self, user: str, _: int) -> None:
        """A job of somebody else, or of nobody, that is carried here."""
        other = self.dice.choice([*USERS, ""])
        with spanledger.carried({"user.id": other, "spanledger.feature": "job"} if other else {}):
            ask(other, is_open=bool(other))
        ask(user, is_open=True)

    async def alias(self, user: str, _: int) -> None:
        """Somebody else under another name of the dimension."""
        if not isinstance(otel_context._RUNTIME_CONTEXT, WatchedRuntimeContext):
            return  # nothing says which of two names is the inner one
        other = self.dice.choice(USERS)
        token = otel_context.attach(baggage.set_baggage(self.dice.choice(["enduser.id", "user_id"]), other))
        ask(other, is_open=True)
        otel_context.detach(token)
        ask(user, is_open=True)

    async def message(self, user: str, _: int) -> None:
        """A message that is handled where it was sent."""
        with trace.get_tracer("server").start_as_current_span("handle", kind=SpanKind.CONSUMER):
            ask(user, is_open=True)
        ask(user, is_open=True)

    async def lent(self, user: str, _: int) -> None:
        """A client of a pool that all requests share."""
        client = await self.workers.clients.get()
        ask(user, is_open=True)
        self.workers.clients.put_nowait(client)

    async def worker(self, user: str, _: int) -> None:
        workers = self.workers
        self.dice.choice([workers.serve_in_thread, workers.serve_in_task, workers.serve_in_timer])(user)

    async def run(self, requests: int) -> None:
        for start in range(0, requests, CONCURRENT):
            users = self.dice.choices(USERS, k=min(CONCURRENT, requests - start))
            await asyncio.gather(*(asyncio.create_task(self.serve(user)) for user in users))
        await asyncio.gather(*self.left)
        for thread in self.threads:
            await asyncio.to_thread(thread.join)
        await self.workers.stop()


def serve(seed: int, requests: int) -> None:
    asyncio.run(Requests(seed).run(requests))


def judge(rows: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How many rows are right, wrong, missing, missing without a place, and missing although their request was open."""
    counts: Counter[str] = Counter(
        dict.fromkeys(("calls", "right", "wrong", "missing", "unnamed", "missing while open"), 0)
    )
    for row in rows:
        user, kind, _, step = row["response_id"].split("|")
        counts["calls"] += 1
        if row["user_id"] is None:
            counts["missing"] += 1
            counts["unnamed"] += not (row["code_file"] and row["code_line"])
            counts["missing while open"] += kind == "open"
            counts[f"{step} missing while open"] += kind == "open"
        else:
            counts["right" if row["user_id"] == user else "wrong"] += 1
            counts[f"{step} wrong"] += row["user_id"] != user
    return counts


def _beside(peer: str) -> None:
    """Start another tool that changes contexts, threads or providers, as its documentation says."""
    if peer == "sentry":
        import sentry_sdk  # pyright: ignore[reportMissingImports]
        from sentry_sdk.integrations.threading import ThreadingIntegration  # pyright: ignore[reportMissingImports]

        sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", integrations=[ThreadingIntegration(propagate_scope=True)])
    elif peer == "langfuse":
        import langfuse  # pyright: ignore[reportMissingImports]

        langfuse.Langfuse(public_key="pk", secret_key="sk", base_url="http://127.0.0.1:9")
    elif peer == "logfire":
        import logfire  # pyright: ignore[reportMissingImports]

        logfire.configure(send_to_logfire=False, console=False)


def main() -> None:
    from pathlib import Path

    _beside(sys.argv[3] if len(sys.argv) > 3 else "")

    from spanledger.runtime import finalizers, settings
    from spanledger_clickhouse.rows.rows import COLUMNS, contents

    serve(int(sys.argv[1]), int(sys.argv[2]))
    finalizers.wait(10)
    lines = [line for file in Path(settings.spool_dir()).glob("*.jsonl") for line in file.read_bytes().splitlines()]
    rows = [dict(zip(COLUMNS, row, strict=True)) for line in lines for row in contents(line).rows]
    print(json.dumps(judge(rows)))  # noqa: T201 - a program


if __name__ == "__main__":
    main()
