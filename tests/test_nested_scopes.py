"""Scopes within helpers, generators, messages and pools: what they say counts where they are, and nowhere else."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import spanledger
from calls_by_hand import ask, user, users
from conftest import Recorded
from spanledger.capture.request_totals import MAX_OPEN, OpenRequests, RequestTotal
from spanledger.context import propagation
from spanledger.context.llm_call import CALL_KEY, Outbound
from spanledger.context.unattributed import Strictness

pytestmark = pytest.mark.usefixtures("by_hand")


@contextmanager
def acting_as(name: str) -> Iterator[None]:
    with spanledger.attribution(user=name):
        yield


@asynccontextmanager
async def asynchronously_acting_as(name: str) -> AsyncIterator[None]:
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
    def helper() -> Iterator[object]:
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
    assert outer.attributes["spanledger.request.calls"] == 1  # pyright: ignore[reportAttributeAccessIssue]


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
        clients.put_nowait(object())

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
    clients.put(object())

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
