"""Scopes within helpers, generators, messages and pools: what they say counts where they are, and nowhere else."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import spanledger
from calls_by_hand import ask, user, users
from conftest import Recorded
from spanledger.capture.request_totals import MAX_OPEN, OpenRequests, RequestTotal
from spanledger.context import baggage_header, propagation, servers
from spanledger.context.llm_call import CALL_KEY, Outbound
from spanledger.context.open_scopes import current
from spanledger.context.unattributed import Strictness
from spanledger.middleware import AsgiAttribution

pytestmark = pytest.mark.usefixtures("by_hand")


@contextmanager
def acting_as(name: str) -> Generator[None]:
    with spanledger.attribution(user=name):
        yield


@asynccontextmanager
async def asynchronously_acting_as(name: str) -> AsyncGenerator[None]:
    with spanledger.attribution(user=name):
        yield


class Acting:
    """A block of a class of one's own."""

    def __init__(self, name: str) -> None:
        self._scope = spanledger.attribution(user=name)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, *error: object) -> None:
        self._scope.__exit__(None, None, None)


class Client:
    """What is lent."""


def plain(name: str) -> Iterator[object]:
    with spanledger.attribution(user=name):
        for _ in range(3):
            yield user()


def with_helper(name: str) -> Iterator[object]:
    with acting_as(name):
        for _ in range(3):
            yield user()


def with_stack(name: str) -> Iterator[object]:
    with ExitStack() as stack:
        stack.enter_context(spanledger.attribution(user=name))
        for _ in range(3):
            yield user()


def with_class(name: str) -> Iterator[object]:
    with Acting(name):
        for _ in range(3):
            yield user()


def with_nested_blocks(name: str) -> Iterator[object]:
    with spanledger.attribution(user=name):
        with spanledger.feature("f"):
            yield user()
        yield user()
        yield user()


def with_delegation(name: str) -> Iterator[object]:
    yield from with_helper(name)


@pytest.mark.parametrize("items", [plain, with_helper, with_stack, with_class, with_nested_blocks, with_delegation])
def test_generators_that_take_turns_keep_their_users(items: Callable[[str], Iterator[object]]):
    ada, bob = items("ada"), items("bob")
    seen: list[object] = []
    for _ in range(3):
        seen += [next(ada), user(), next(bob), user()]
    assert seen == ["ada", None, "bob", None] * 3


@pytest.mark.parametrize("way", ["helper", "stack", "block"])
def test_asynchronous_generators_that_take_turns_keep_their_users(way: str):
    async def items(name: str) -> AsyncIterator[object]:
        async with AsyncExitStack() as stack:
            if way == "helper":
                await stack.enter_async_context(asynchronously_acting_as(name))
            elif way == "stack":
                stack.enter_context(spanledger.attribution(user=name))
            else:
                stack.enter_context(acting_as(name))
            for _ in range(3):
                yield user()
                await asyncio.sleep(0)

    async def main() -> list[object]:
        ada, bob = items("ada"), items("bob")
        seen: list[object] = []
        for _ in range(3):
            seen += [await anext(ada), user(), await anext(bob), user()]
        return seen

    assert asyncio.run(main()) == ["ada", None, "bob", None] * 3


def test_a_generator_within_a_helpers_block_does_not_leak_into_it():
    @contextmanager
    def helper() -> Generator[object]:
        items = plain("bob")
        first = next(items)
        yield first

    with spanledger.attribution(user="ada"), helper() as first:
        assert (first, user()) == ("bob", "ada")


def test_what_is_carried_takes_the_place_of_what_is_outside(ledger: Recorded, caplog: pytest.LogCaptureFixture):
    with spanledger.attribution(feature="visits"):
        visitor = spanledger.carry()
    with spanledger.attribution(user="ada", request_id="r"):
        for entries in (visitor, {}, None, "no dict"):
            with spanledger.carried(entries):  # pyright: ignore[reportArgumentType]
                ask()
    assert [(row["user_id"], row["feature"]) for row in ledger.rows] == [
        (None, "visits"), (None, None), ("ada", None), (None, None),
    ]  # fmt: skip
    assert "carried() takes what carry() gave" in caplog.text


def test_a_message_without_a_user_does_not_get_its_readers():
    guard = propagation.FilteringPropagator(TraceContextTextMapPropagator(), trusting=False)
    script: dict[str, Any] = {"__name__": "opentelemetry.instrumentation.celery"}
    exec("def extract(guard, carrier):\n    return guard.extract(carrier)", script)
    with spanledger.attribution(user="ada", feature="f"):
        for header, entries in {
            "request.id=r": {"request.id": "r"},
            "user.id=%FF,request.id=r": {"request.id": "r"},
        }.items():
            assert dict(baggage.get_all(script["extract"](guard, {"baggage": header}))) == entries
        assert baggage.get_baggage("user.id", script["extract"](guard, {})) is None


def test_a_propagator_of_ones_own_sends_nothing_that_is_over_or_to_a_model():
    propagation.guard_propagators()
    carrier: dict[str, str] = {}
    with spanledger.attribution(user="ada", request_id="r"):
        inside = otel_context.get_current()
        W3CBaggagePropagator().inject(carrier)
        to_model: dict[str, str] = {}
        W3CBaggagePropagator().inject(to_model, otel_context.set_value(CALL_KEY, Outbound()))
    later: dict[str, str] = {}
    W3CBaggagePropagator().inject(later, inside)
    assert "user.id=ada" in carrier["baggage"]
    assert (to_model, later) == ({}, {})


def test_a_module_that_begins_as_a_brokers_is_none():
    assert propagation._is_within("myqueue.tracing", ("myqueue.tracing",))
    assert propagation._is_within("myqueue.tracing.read", ("myqueue.tracing",))
    assert not propagation._is_within("myqueue.tracing_http", ("myqueue.tracing",))


def test_the_inner_name_of_a_dimension_counts_under_whatever_key(ledger: Recorded, watched: None):
    def attached(key: str, value: str) -> Any:
        return otel_context.attach(baggage.set_baggage(key, value))

    token = attached("user_id", "bob")
    with spanledger.attribution(user=""):
        ask()
    otel_context.detach(token)
    with spanledger.attribution(user="ada"):
        token = attached("enduser.id", "cyd")
        ask()
        otel_context.detach(token)
        ask()
    assert [name for name, _ in users(ledger)] == [None, "cyd", "ada"]


def test_a_unit_of_a_generator_is_one_unit(ledger: Recorded):
    @spanledger.unit("pdf", quantity=50, unit="page")
    def pages() -> Iterator[int]:
        for page in range(3):
            ask()
            yield page

    list(pages())
    list(pages())
    assert len({row["unit_id"] for row in ledger.rows}) == 2


def test_a_requirement_names_the_code_where_something_else_is_missing(
    ledger: Recorded, caplog: pytest.LogCaptureFixture
):
    ledger.processor.strictness = Strictness(("team",))
    with spanledger.attribution(user="ada", feature="f", request_id="r"):
        ask()
    assert "calls_by_hand.py:" in caplog.text
    assert "has no team" in caplog.text


# --- requests within requests ----------------------------------------------------------------------------------


def test_a_message_that_is_handled_where_it_was_sent_does_not_end_the_outer_request(ledger: Recorded):
    tracer = ledger.tracing.get_tracer("server")
    left: list[object] = []
    may_look, has_looked = threading.Event(), threading.Event()

    def look() -> None:
        may_look.wait(5)
        left.append(user())
        has_looked.set()

    outer: Any
    with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER) as outer:
        token = otel_context.attach(baggage.set_baggage("user.id", "ada"))
        with tracer.start_as_current_span("handle", kind=SpanKind.CONSUMER):
            ask()
        ask()
        threading.Thread(target=look, daemon=True).start()
        otel_context.detach(token)
    may_look.set()
    assert has_looked.wait(5)
    assert left == [None]
    assert outer.attributes["spanledger.request.calls"] == 1


def test_a_request_that_is_forgotten_counts_no_more(ledger: Recorded):
    requests = OpenRequests()
    tracer = ledger.tracing.get_tracer("server")
    totals: list[RequestTotal] = []
    for _ in range(MAX_OPEN + 1):
        span: Any = tracer.start_span("GET /", kind=SpanKind.SERVER)
        total = requests.on_span_start(span)
        assert total is not None
        totals.append(total)
    assert totals[0].is_over
    assert not totals[1].is_over


# --- queues that hold no work ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["http.request", "websocket.receive"])
def test_the_messages_of_a_server_are_no_work_of_others(kind: str):
    async def main() -> object:
        messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        messages.put_nowait({"type": kind})

        async def endpoint() -> object:
            await messages.get()
            return user()

        with spanledger.attribution(user="ada", request_id="r"):
            return await asyncio.create_task(endpoint())

    assert asyncio.run(main()) == "ada"


def test_only_the_task_that_takes_work_of_others_has_no_user():
    async def main() -> list[object]:
        jobs: asyncio.Queue[int] = asyncio.Queue()
        jobs.put_nowait(1)
        done = asyncio.Event()

        async def work() -> object:
            await jobs.get()
            done.set()
            return user()

        async def sibling() -> object:
            await done.wait()
            return user()

        with spanledger.attribution(user="ada", request_id="r"):
            return list(await asyncio.gather(work(), sibling()))

    assert asyncio.run(main()) == [None, "ada"]


def test_a_pool_of_clients_is_known_by_what_is_put_back():
    async def main() -> list[object]:
        clients: asyncio.Queue[object] = asyncio.Queue()
        clients.put_nowait(Client())

        async def use() -> object:
            client = await clients.get()
            try:
                return user()
            finally:
                clients.put_nowait(client)

        with spanledger.attribution(user="ada", request_id="r"):
            await asyncio.create_task(use())
            return list(await asyncio.gather(use(), use()))

    assert asyncio.run(main()) == ["ada", "ada"]


def test_a_pool_of_clients_in_a_pool_of_threads_that_a_request_started():
    clients: queue.Queue[object] = queue.Queue()
    clients.put(Client())

    def use() -> object:
        client = clients.get()
        try:
            return user()
        finally:
            clients.put(client)

    with ThreadPoolExecutor(1) as pool:
        for name in ("ada", "bob", "ada"):
            with spanledger.attribution(user=name, request_id=name):
                assert pool.submit(use).result(5) == name


def test_a_worker_that_hands_work_on_does_not_hand_on_its_user():
    first: queue.Queue[str] = queue.Queue()
    second: queue.Queue[str] = queue.Queue()
    seen: queue.Queue[object] = queue.Queue()

    def relay() -> None:
        for _ in range(3):
            second.put(first.get())

    def serve() -> None:
        for _ in range(3):
            second.get()
            seen.put(user())

    with spanledger.attribution(user="ada", request_id="r"):
        threading.Thread(target=relay, daemon=True).start()
        threading.Thread(target=serve, daemon=True).start()
        for name in ("bob", "cyd"):
            with spanledger.attribution(user=name, request_id=name):
                first.put(name)
        first.put("ada")
        assert [seen.get(timeout=5) for _ in range(3)] == [None] * 3


def test_work_that_happens_to_be_where_other_work_was_does_not_make_a_pool():
    jobs: queue.Queue[dict[str, int]] = queue.Queue()
    seen: list[object] = []

    def work() -> None:
        while jobs.get():
            seen.append(user())

    with spanledger.attribution(user="ada", request_id="r"):
        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        for number in range(200):
            with spanledger.attribution(user="bob", request_id="b"):
                jobs.put({"number": number})
        jobs.put({})
        worker.join(5)
    assert set(seen) == {None}


@pytest.mark.parametrize("way", ["a loop in a pool", "to_thread of get", "a copied context"])
def test_workers_in_pools_serve_others_without_a_user(way: str):
    jobs: queue.Queue[object] = queue.Queue()
    seen: queue.Queue[object] = queue.Queue()

    def work() -> None:
        jobs.get()
        seen.put(user())

    async def work_async() -> None:
        await asyncio.to_thread(jobs.get)
        seen.put(user())

    async def put_as_bob() -> None:
        with spanledger.attribution(user="bob", request_id="b"):
            jobs.put("job")

    async def main() -> object:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int).result(5)  # it has a thread, from before
            bob = asyncio.create_task(put_as_bob())
            await bob
            with spanledger.attribution(user="ada", request_id="r"):
                if way == "a loop in a pool":
                    pool.submit(work)
                elif way == "a copied context":
                    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
                else:
                    await asyncio.create_task(work_async())
                return await asyncio.to_thread(seen.get, timeout=5)

    assert asyncio.run(main()) is None


# --- requests that begin or end where nothing says so -----------------------------------------------------------


def test_a_request_begins_without_the_one_before_on_its_connection(watched: None):
    class RequestResponseCycle:
        async def run_asgi(self) -> list[object]:
            seen = [user(), await asyncio.create_task(ask_in_task())]
            with spanledger.attribution(feature="f"):
                return [*seen, user()]

    async def ask_in_task() -> object:
        return user()

    module: Any = types.ModuleType("uvicorn.protocols.http.h11_impl")
    module.RequestResponseCycle = RequestResponseCycle
    servers._patch_runner(module, "RequestResponseCycle")

    async def main() -> list[object]:
        with spanledger.attribution(user="ada", request_id="r"):
            return await asyncio.create_task(RequestResponseCycle().run_asgi())

    assert asyncio.run(main()) == [None, None, None]


def test_a_request_in_whose_task_a_context_stays_attached_ends_with_it(watched: None):
    async def request() -> asyncio.Task[object]:
        otel_context.attach(baggage.set_baggage("user.id", "ada"))
        assert user() == "ada"
        return asyncio.create_task(left())

    async def left() -> object:
        await asyncio.sleep(0.01)
        return user()

    async def main() -> object:
        return await (await asyncio.create_task(request()))

    assert asyncio.run(main()) is None


def test_baggage_on_an_empty_context_is_a_scope_as_well(watched: None):
    async def main() -> list[object]:
        with spanledger.feature("f"):
            token = otel_context.attach(baggage.set_baggage("user.id", "ada", otel_context.Context()))
            task = asyncio.create_task(later())
            inside = user()
            otel_context.detach(token)
        over.set()
        return [inside, await task]

    async def later() -> object:
        await over.wait()
        return user()

    over = asyncio.Event()
    assert asyncio.run(main()) == ["ada", None]


def test_contexts_that_are_never_detached_do_not_add_up(watched: None):
    for number in range(1000):
        otel_context.attach(baggage.set_baggage("user.id", str(number)))
    scope, depth = current().scope, 0
    while scope is not None:
        scope, depth = scope.parent, depth + 1
    assert (user(), depth < 150) == ("999", True)


def test_a_background_task_under_a_middleware_has_its_requests_user(ledger: Recorded, watched: None):
    async def endpoint(request: Any) -> Any:
        return PlainTextResponse("x", background=BackgroundTask(ask))

    app: Any = Starlette(routes=[Route("/", endpoint)])

    async def dispatch(request: Any, call_next: Any) -> Any:
        with spanledger.attribution(user="ada", feature="f", request_id="r"):
            return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)

    async def served(scope: Any, receive: Any, send: Any) -> None:
        with ledger.tracing.get_tracer("server").start_as_current_span("GET /", kind=SpanKind.SERVER):
            await app(scope, receive, send)

    TestClient(served).get("/")
    assert users(ledger) == [("ada", "")]


# --- values ------------------------------------------------------------------------------------------------------


def test_names_that_differ_in_what_cannot_be_printed_stay_two(ledger: Recorded):
    for name in ("ab", "a\u200bb", "a\u200cb"):
        with spanledger.attribution(user=name):
            ask()
    assert len({name for name, _ in users(ledger)}) == 3


def test_a_header_is_read_as_utf_8():
    headers = [(b"x-user", "Łukasz".encode()), (b"x-tenant", "Jürgen".encode("latin-1"))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(current().entries)

    seen: dict[str, object] = {}
    asyncio.run(
        AsgiAttribution(app, user="x-user", tenant="x-tenant")({"type": "http", "headers": headers}, None, None)
    )
    assert (seen["user.id"], seen["spanledger.tenant.id"]) == ("Łukasz", "Jürgen")


def test_a_value_that_has_no_text_is_missing_and_named(ledger: Recorded, watched: None):
    class Lazy:
        def __str__(self) -> str:
            raise RuntimeError("detached from its session")

    token = otel_context.attach(baggage.set_baggage("user.id", Lazy(), baggage.set_baggage("feature", "f")))  # pyright: ignore[reportArgumentType]
    ask()
    otel_context.detach(token)
    assert [(row["user_id"], row["feature"], row["attribution_reason"]) for row in ledger.rows] == [
        (None, "f", "partial")
    ]


def test_the_name_of_a_label_adds_no_member_to_a_header():
    written = baggage_header.written({"spanledger.label.x,user.id": "bob", "user.id": "ada"})
    assert written == "user.id=ada"


def test_a_decorated_function_that_returns_a_coroutine_runs_in_its_scope():
    async def inner() -> object:
        return user()

    @spanledger.attribution(user="ada")
    def outer() -> Any:
        return inner()

    assert asyncio.run(outer()) == "ada"
