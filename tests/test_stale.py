"""The right user, or none: what a request has started and left running is not served in its name."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.background import BackgroundTask

import calls_by_hand
import random_requests
import spanledger
from calls_by_hand import ask, user, users
from conftest import Recorded
from spanledger.context import background_tasks, propagation
from spanledger.context.open_scopes import current, kept
from spanledger.middleware import AsgiAttribution, WsgiAttribution

pytestmark = pytest.mark.usefixtures("by_hand")


@contextmanager
def named_request(ledger: Recorded) -> Iterator[None]:
    with spanledger.attribution(user="ada", feature="f", request_id="r"):
        yield


@contextmanager
def server_span(ledger: Recorded) -> Iterator[None]:
    with ledger.tracing.get_tracer("server").start_as_current_span("GET /", kind=SpanKind.SERVER):
        context = otel_context.get_current()
        for key, value in {"user.id": "ada", "feature": "f", "request.id": "r"}.items():
            context = baggage.set_baggage(key, value, context)
        token = otel_context.attach(context)
        yield
        otel_context.detach(token)


REQUESTS = [named_request, server_span]


@pytest.mark.parametrize("request_of", REQUESTS)
def test_a_worker_that_a_request_has_started_serves_no_user_afterwards(request_of: Any, ledger: Recorded):
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    def work() -> None:
        for _ in range(2):
            go.acquire()
            ask()
            done.release()

    with request_of(ledger):
        threading.Thread(target=work, daemon=True).start()
        go.release()
        done.acquire()
    go.release()
    done.acquire()
    assert users(ledger) == [("ada", ""), (None, "stale")]
    assert ledger.rows[1]["code_file"] == calls_by_hand.__file__


@pytest.mark.parametrize("request_of", REQUESTS)
def test_a_task_that_a_request_has_left_running_is_unattributed(request_of: Any, ledger: Recorded):
    async def main() -> None:
        async def work() -> None:
            ask()
            await asyncio.sleep(0.02)
            ask()

        with request_of(ledger):
            task = asyncio.create_task(work())
            await asyncio.sleep(0.005)
        await task

    asyncio.run(main())
    assert users(ledger) == [("ada", ""), (None, "stale")]


@pytest.mark.parametrize("request_of", REQUESTS)
def test_a_worker_of_an_open_request_serves_others_without_a_user(request_of: Any, ledger: Recorded):
    jobs: queue.Queue[Any] = queue.Queue()

    def work() -> None:
        while (done := jobs.get()) is not None:
            ask()
            done.set()

    def put() -> None:
        done = threading.Event()
        jobs.put(done)
        assert done.wait(5)

    with request_of(ledger):
        threading.Thread(target=work, daemon=True).start()
        put()
        put()
        token = otel_context.attach(otel_context.Context())
        with spanledger.attribution(user="bob", request_id="r2"):
            put()
        otel_context.detach(token)
        jobs.put(None)
    assert users(ledger) == [("ada", ""), ("ada", ""), (None, "stale")]


def test_a_consumer_task_of_an_open_request_serves_others_without_a_user(ledger: Recorded):
    async def main() -> None:
        jobs: asyncio.Queue[int] = asyncio.Queue()
        task: asyncio.Task[None] | None = None

        async def work() -> None:
            while True:
                await jobs.get()
                ask()
                jobs.task_done()

        async def serve(user: str) -> None:
            nonlocal task
            with spanledger.attribution(user=user, feature="f", request_id=user):
                task = task or asyncio.create_task(work())
                jobs.put_nowait(1)
                await jobs.join()
                await asyncio.sleep(0.01)

        await asyncio.gather(asyncio.create_task(serve("ada")), asyncio.create_task(serve("bob")))
        assert task is not None
        task.cancel()

    asyncio.run(main())
    assert {user for user, _ in users(ledger)} <= {"ada", None}
    assert len([user for user, _ in users(ledger) if user == "ada"]) <= 1


def test_a_timer_that_renews_itself_is_unattributed(ledger: Recorded):
    closed, over = threading.Event(), threading.Event()

    def tick(left: int) -> None:
        ask()
        if left:
            threading.Timer(0.01, renewed, (left - 1,)).start()
        else:
            over.set()

    def renewed(left: int) -> None:
        assert closed.wait(5)  # while its scope is open, a timer is of it
        tick(left)

    with spanledger.attribution(user="ada", feature="f", request_id="r"):
        tick(2)
    closed.set()
    assert over.wait(5)
    assert users(ledger) == [("ada", ""), (None, "stale"), (None, "stale")]


def test_what_is_handed_over_keeps_its_user(ledger: Recorded):
    with spanledger.attribution(user="ada", feature="f", request_id="r"):
        job = spanledger.carried(spanledger.carry())(ask)
        thread = threading.Timer(0.01, job)
        thread.start()
    thread.join()
    assert users(ledger) == [("ada", "")]


def test_a_scope_in_a_worker_is_its_own(ledger: Recorded):
    def work() -> None:
        with spanledger.attribution(user="bob"):
            ask()

    with spanledger.attribution(user="ada", feature="f", request_id="r"):
        thread = threading.Timer(0.01, work)
        thread.start()
    thread.join()
    [row] = ledger.rows
    assert (row["user_id"], row["feature"], row["request_id"]) == ("bob", None, None)


def test_a_script_hands_out_work_within_a_scope(ledger: Recorded):
    async def main() -> None:
        async def work() -> None:
            ask()

        tasks: list[asyncio.Task[None]] = []
        for name in ("ada", "bob"):
            with spanledger.attribution(user=name, feature="f"):
                tasks.append(asyncio.create_task(work()))
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert [user for user, _ in users(ledger)] == ["ada", "bob"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_background_task_keeps_its_user(is_async: bool, ledger: Recorded):
    import starlette.background

    original = starlette.background.BackgroundTask.__call__
    background_tasks._patch(starlette.background)

    async def asynchronous() -> None:
        ask()

    async def main() -> None:
        with server_span(ledger):
            context = otel_context.get_current()
        otel_context.attach(context)  # FastAPI ends the span with the response, and then runs the task
        ask()
        await BackgroundTask(asynchronous if is_async else ask)()

    try:
        asyncio.run(main())
    finally:
        starlette.background.BackgroundTask.__call__ = original
    assert users(ledger) == [(None, "stale"), ("ada", "")]


def test_middlewares_request_is_over_with_its_response(ledger: Recorded):
    tasks: list[asyncio.Task[None]] = []

    async def left() -> None:
        await asyncio.sleep(0.01)
        ask()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(left()))
        ask()

    async def main() -> None:
        scope = {"type": "http", "path": "/", "headers": [(b"x-user", b"ada")]}
        await AsgiAttribution(app, user="x-user", routes={"/": "f"})(scope, None, None)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert users(ledger) == [("ada", ""), (None, "stale")]


def test_raw_baggage_is_over_with_its_detach(ledger: Recorded, watched: None):
    """Middleware of one's own, where no instrumentation opens a server span."""

    async def main() -> None:
        async def work() -> None:
            ask()
            await asyncio.sleep(0.02)
            ask()

        context = otel_context.get_current()
        for key, value in {"user.id": "ada", "feature": "f", "request.id": "r"}.items():
            context = baggage.set_baggage(key, value, context)
        token = otel_context.attach(context)
        task = asyncio.create_task(work())
        await asyncio.sleep(0.005)
        otel_context.detach(token)
        ask()
        await task

    asyncio.run(main())
    assert users(ledger) == [("ada", ""), (None, "context_lost"), (None, "stale")]


@pytest.mark.parametrize("way", ["block", "raw baggage"])
@pytest.mark.parametrize("has_span", [False, True])
def test_a_streamed_body_after_a_middleware_has_its_user(way: str, has_span: bool, ledger: Recorded, watched: None):
    """What Starlette's kind of middleware returns is sent after it has been left, from a task of its own."""
    from starlette.applications import Starlette
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import StreamingResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    async def dispatch(request: Any, call_next: Any) -> Any:
        if way == "block":
            with spanledger.attribution(user="ada", feature="f", request_id="r"):
                return await call_next(request)
        context = baggage.set_baggage("user.id", "ada", baggage.set_baggage("request.id", "r"))
        token = otel_context.attach(context)
        try:
            return await call_next(request)
        finally:
            otel_context.detach(token)

    async def endpoint(request: Any) -> Any:
        async def body() -> AsyncIterator[str]:
            for _ in range(2):
                await asyncio.sleep(0.005)
                ask()
                yield "x"

        return StreamingResponse(body(), background=BackgroundTask(ask))

    app: Any = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)

    async def served(scope: Any, receive: Any, send: Any) -> None:
        if not has_span or scope["type"] != "http":
            await app(scope, receive, send)
            return
        with ledger.tracing.get_tracer("server").start_as_current_span("GET /", kind=SpanKind.SERVER):
            await app(scope, receive, send)

    async def main() -> None:
        await asyncio.to_thread(lambda: TestClient(served).get("/"))

    asyncio.run(main())
    assert [user for user, _ in users(ledger)] == ["ada"] * 3


def test_a_body_that_django_streams_has_its_user():
    program = Path(__file__).parent / "django_streams.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, timeout=60)
    seen = [tuple(entry) for entry in json.loads(done.stdout)]
    bodies = {(where, "ada", False) for where in ("asynchronous view", "asynchronous body", "view", "body")}
    assert set(seen) == {*bodies, ("later", None, True), ("outside", None, False)}


@pytest.mark.parametrize("is_request", [False, True])
def test_a_child_that_a_request_has_forked_has_no_user(is_request: bool, ledger: Recorded):
    who: dict[str, Any] = {"user": "ada", "request_id": "r"} if is_request else {"user": "ada"}
    with spanledger.attribution(**who):
        child = os.fork()
        if child == 0:
            os._exit(int(current().entries.get("user.id") == "ada"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_server_span_in_a_stale_context_inherits_no_user(ledger: Recorded):
    with server_span(ledger):
        context = otel_context.get_current()
    token = otel_context.attach(context)
    with ledger.tracing.get_tracer("server").start_as_current_span("GET /", kind=SpanKind.SERVER):
        ask()
        inner = otel_context.attach(baggage.set_baggage("user.id", "bob"))
        ask()
        otel_context.detach(inner)
    otel_context.detach(token)
    assert [user for user, _ in users(ledger)] == [None, "bob"]


def test_an_open_connection_keeps_its_opened_it(ledger: Recorded):
    with spanledger.attribution(user="ada", feature="f", request_id="r"):
        context = kept()
    assert current(context).entries["user.id"] == "ada"


# --- blocks around a yield ------------------------------------------------------------------------------------------------


def test_a_block_in_a_generator_is_not_its_readers(ledger: Recorded):
    def items(user: str) -> Iterator[int]:
        with spanledger.attribution(user=user, request_id=user):
            for number in range(3):
                ask()
                yield number

    one, two = items("ada"), items("bob")
    for _ in range(2):
        next(one)
        next(two)
        ask()
    one.close()
    del two
    gc.collect()
    ask()
    assert [user for user, _ in users(ledger)] == ["ada", "bob", None] * 2 + [None]


def test_blocks_of_asynchronous_generators_may_interleave(ledger: Recorded):
    async def items(user: str) -> AsyncIterator[int]:
        with spanledger.attribution(user=user, request_id=user):
            for number in range(3):
                await asyncio.sleep(0)
                ask()
                yield number

    async def main() -> None:
        one, two = items("ada"), items("bob")
        for _ in range(2):
            await anext(one)
            await anext(two)
            ask()
        async for _ in items("cyd"):
            break
        ask()

    asyncio.run(main())
    assert [user for user, _ in users(ledger)] == ["ada", "bob", None, "ada", "bob", None, "cyd", None]


def test_what_a_generators_step_starts_is_in_its_block(ledger: Recorded):
    def items() -> Iterator[int]:
        with spanledger.attribution(user="ada", request_id="r"):
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
            yield 1

    iterator = items()
    next(iterator)
    thread = threading.Thread(target=ask)  # started by the reader
    thread.start()
    thread.join()
    assert [user for user, _ in users(ledger)] == ["ada", None]


def test_a_block_of_a_context_manager_is_that_of_its_body(ledger: Recorded):
    @contextmanager
    def who() -> Iterator[None]:
        with spanledger.attribution(user="ada"):
            yield

    @asynccontextmanager
    async def async_who() -> AsyncIterator[None]:
        with spanledger.attribution(user="bob"):
            yield

    async def main() -> None:
        async with async_who():
            ask()
        ask()

    with who():
        ask()
    asyncio.run(main())
    assert [user for user, _ in users(ledger)] == ["ada", "bob", None]


def test_a_context_manager_may_delegate(ledger: Recorded):
    def inner() -> Iterator[None]:
        with spanledger.attribution(user="ada"):
            yield

    @contextmanager
    def outer() -> Iterator[None]:
        yield from inner()

    class ByHand:
        def __enter__(self) -> None:
            self.inner = inner()
            next(self.inner)

        def __exit__(self, *_: object) -> None:
            next(self.inner, None)

    for manager in (outer(), ByHand()):
        with manager:
            assert user() == "ada"
        assert user() is None


def test_a_generators_feature_costs_its_reader_no_user():
    async def items() -> AsyncIterator[int]:
        with spanledger.feature("agent"):
            yield 1
            yield 2

    async def main() -> list[object]:
        async def sub() -> object:
            return user()

        seen: list[object] = []
        with spanledger.attribution(user="ada", request_id="r"):
            async for _ in items():
                seen += await asyncio.gather(sub(), asyncio.to_thread(user))
            seen += await asyncio.gather(sub(), asyncio.to_thread(user))
        return seen

    assert set(asyncio.run(main())) == {"ada"}


def test_the_innermost_attach_counts(watched: None):
    with spanledger.attribution(user="bob", request_id="r2"):
        of_bob = otel_context.get_current()
        with spanledger.attribution(user="ada", request_id="r1"):
            for context in (of_bob, baggage.set_baggage("user.id", "bob", otel_context.Context())):
                token = otel_context.attach(context)
                assert user() == "bob"
                otel_context.detach(token)
                assert user() == "ada"


def test_untrusted_baggage_is_dropped_inside_our_middleware():
    guard = propagation.FilteringPropagator(CompositePropagator([W3CBaggagePropagator()]), trusting=False)
    seen: list[object] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        token = otel_context.attach(guard.extract({"baggage": environ["HTTP_BAGGAGE"]}))
        seen.append(user())
        otel_context.detach(token)
        carrier: dict[str, str] = {}
        propagation.FilteringPropagator(TraceContextTextMapPropagator(), trusting=False).inject(carrier)
        assert "baggage" not in carrier
        return [b""]

    served = WsgiAttribution(application, user=lambda _: "mallory")
    list(served({"PATH_INFO": "/", "HTTP_BAGGAGE": "user.id=victim"}, lambda *_: None))
    assert seen == ["mallory"]


def test_a_block_that_a_span_has_detached_counts(ledger: Recorded):
    """FastAPI makes dependencies in a span of their own, whose end detaches what they have attached."""
    with ledger.tracing.get_tracer("server").start_as_current_span("dependencies"):
        scope = spanledger.attribution(user="ada", feature="f", request_id="r")
        scope.__enter__()
    ask()
    scope.__exit__(None, None, None)
    ask()
    assert [user for user, _ in users(ledger)] == ["ada", None]


def test_leaving_a_block_in_another_context_raises_and_logs_nothing(ledger: Recorded, caplog: pytest.LogCaptureFixture):
    scope = spanledger.attribution(user="ada")
    contextvars.copy_context().run(scope.__enter__)
    contextvars.copy_context().run(lambda: scope.__exit__(None, None, None))
    scope.__exit__(None, None, None)
    thread = threading.Thread(target=scope.__enter__)
    thread.start()
    thread.join()
    scope.__exit__(None, None, None)
    assert caplog.text == ""


# --- all of it at once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_watched", [False, True])
def test_a_thousand_random_requests_have_no_wrong_user(
    is_watched: bool, ledger: Recorded, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    if is_watched:
        request.getfixturevalue("watched")
    monkeypatch.setattr(random_requests.trace, "get_tracer", lambda _: ledger.tracing.get_tracer("server"))
    random_requests.serve(7 + is_watched, 1000)
    counts = random_requests.judge(ledger.rows)
    assert (counts["wrong"], counts["unnamed"]) == (0, 0), counts
    assert counts["missing while open"] < counts["calls"] / 20, (
        "tasks that may have been started in a generator's block"
    )
    assert counts["calls"] > 3000
    assert counts["right"] > counts["calls"] / 2
