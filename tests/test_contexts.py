"""What others do to a context: other tracers, propagators, headers, limits; and queues, of work and of connections."""

from __future__ import annotations

import asyncio
import pickle
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import baggage, propagate
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import spanledger
from calls_by_hand import ask, user, users
from conftest import Recorded
from spanledger.context import baggage_header, propagation, runtime_context
from spanledger.context.open_scopes import current, entered_scopes

pytestmark = pytest.mark.usefixtures("by_hand")


class SpanOnlyRuntime:
    """Keeps the baggage of what was attached last, and detaches nothing, as ddtrace's does."""

    def __init__(self) -> None:
        self.baggage: dict[str, object] = {}

    def attach(self, context: Any) -> object:
        self.baggage = dict(baggage.get_all(context))
        return object()

    def get_current(self) -> Any:
        context = otel_context.Context()
        for key, value in self.baggage.items():
            context = baggage.set_baggage(key, value, context)
        return context

    def detach(self, token: object) -> None: ...


def test_another_runtime_context_loses_and_leaks_nothing(ledger: Recorded, monkeypatch: pytest.MonkeyPatch):
    runtime = SpanOnlyRuntime()
    monkeypatch.setattr(otel_context, "_RUNTIME_CONTEXT", runtime)
    runtime_context.watch_context()
    token = otel_context.attach(baggage.set_baggage("theirs", "1"))
    for name in ("ada", "bob"):
        with spanledger.attribution(user=name, feature="f", request_id=name):
            ask()
            assert runtime.baggage == {"theirs": "1"}
    ask()
    assert baggage.get_baggage("theirs") == "1"
    otel_context.detach(token)
    assert [user for user, _ in users(ledger)] == ["ada", "bob", None]


def test_the_guard_is_there_again_when_somebody_sets_a_propagator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(propagate, "get_global_textmap", propagate.get_global_textmap)
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", propagate.get_global_textmap())
    propagation.guard_propagators()
    propagate.set_global_textmap(CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()]))
    context = propagate.extract({"baggage": "user.id=victim,theirs=1"})
    assert dict(baggage.get_all(context)) == {"theirs": "1"}


BROKER = {"__name__": "opentelemetry.instrumentation.celery"}


def as_broker(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one of a broker's instrumentation."""
    exec("def call(function, *arguments):\n    return function(*arguments)", BROKER)
    return lambda *arguments: BROKER["call"](function, *arguments)  # pyright: ignore[reportCallIssue]


def test_a_brokers_message_carries_attribution_whatever_the_propagators(monkeypatch: pytest.MonkeyPatch):
    guard = propagation.FilteringPropagator(TraceContextTextMapPropagator(), trusting=False)
    carrier: dict[str, str] = {}
    with spanledger.attribution(user="ada lovelace+1"):
        as_broker(guard.inject)(carrier)
        over_http: dict[str, str] = {}
        guard.inject(over_http)
    assert carrier["baggage"] == "user.id=ada%20lovelace%2B1"
    assert "baggage" not in over_http
    assert baggage.get_baggage("user.id", as_broker(guard.extract)(carrier)) == "ada lovelace+1"
    assert baggage.get_baggage("user.id", guard.extract(carrier)) is None


def test_what_is_over_is_not_sent(ledger: Recorded):
    with spanledger.attribution(user="ada", request_id="r"):
        context = otel_context.get_current()
    carrier: dict[str, str] = {}
    propagation.FilteringPropagator(W3CBaggagePropagator(), trusting=False).inject(carrier, context)
    assert carrier == {}


@pytest.mark.parametrize(
    ("headers", "user"),
    [
        (["user.id=ada"], "ada"),
        (["user.id=ada;region=eu"], "ada"),
        (["user.id = ada ; region=eu;x"], "ada"),
        (["user.id=ada+test%40example.com"], "ada+test@example.com"),
        (["user.id=ada%2Btest"], "ada+test"),
        (["user.id=J%C3%BCrgen"], "Jürgen"),
        (["a=1", "user.id=ada"], "ada"),
        (["a=1,user.id=bob", "user.id=ada"], "ada"),
        (["user.id=J\u00fcrgen"], None),
        (["user.id=%FF"], None),
        (["user.id=a b"], None),
        (['user.id="ada"'], None),
        (["user.id"], None),
        ([",".join(f"k{number}={number}" for number in range(180)) + ",user.id=ada"], "ada"),
        (["user.id=ada,big=" + "x" * 8192], None),
        (["user.id=ada", "big=" + "x" * 8180], None),
    ],
)
def test_baggage_is_read_whole_or_not_at_all(headers: list[str], user: str | None):
    assert baggage_header.read(headers).get("user.id") == user

    class Getter:
        def get(self, carrier: list[str], key: str) -> list[str] | None:
            return carrier if key == "baggage" else None

        def keys(self, carrier: list[str]) -> list[str]:
            return ["baggage"]

    guard = propagation.FilteringPropagator(W3CBaggagePropagator(), trusting=True)
    assert baggage.get_baggage("user.id", guard.extract(headers, None, Getter())) == user  # pyright: ignore[reportArgumentType]


def test_baggage_of_a_request_does_not_leave_for_a_model_host():
    headers = {"Baggage": "user.id=ada,theirs=1;x=y", "accept": "*/*"}
    assert propagation.without_attribution(headers) == {"Baggage": "theirs=1;x=y", "accept": "*/*"}
    assert propagation.without_attribution({"baggage": "user.id=ada"}) == {}
    assert propagation.without_attribution(None) is None


@pytest.mark.parametrize("limits", [SpanLimits(max_span_attributes=16), SpanLimits(max_span_attribute_length=16)])
def test_limits_of_attributes_do_not_touch_the_ledger(
    limits: SpanLimits, ledger: Recorded, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ledger.tracing, "_span_limits", limits)
    for end in "ab":
        with spanledger.attribution(user="somebody-with-a-long-id-" + end, feature="f" * 30, request_id="r"):
            ask("a-response-with-a-long-id-")
    assert [row["user_id"][-1] for row in ledger.rows] == ["a", "b"]
    for row in ledger.rows:
        assert (row["request_model"], row["feature"], row["price_status"]) == ("gpt-4.1-mini", "f" * 30, "priced")
        assert row["response_id"].startswith("a-response-with-a-long-id-")


@pytest.mark.parametrize("value", ["anonymous", "NULL", " undefined "])
def test_anonymous_names_can_be_configured(value: str, ledger: Recorded, monkeypatch: pytest.MonkeyPatch):
    from spanledger.context import baggage as reading

    monkeypatch.setenv("SPANLEDGER_ANONYMOUS", "anonymous,null,undefined")
    reading._anonymous.cache_clear()
    with spanledger.attribution(user=value, feature="f", request_id="r"):
        ask()
    monkeypatch.undo()
    reading._anonymous.cache_clear()
    assert ledger.rows[0]["user_id"] is None


# --- queues: those of work, and others ---------------------------------------------------------------------------------------


def test_connection_pools_and_replies_cost_no_user(ledger: Recorded):
    pool: queue.LifoQueue[int] = queue.LifoQueue()
    pool.put(1)
    jobs: queue.Queue[Any] = queue.Queue()

    def answer() -> None:
        while (reply := jobs.get()) is not None:
            reply.put(1)

    worker = threading.Thread(target=answer)
    worker.start()

    def serve() -> object:
        connection = pool.get()
        reply: queue.Queue[int] = queue.Queue()
        jobs.put(reply)
        reply.get()
        pool.put(connection)
        return user()

    for name in ("ada", "bob"):
        with spanledger.attribution(user=name, request_id=name):
            assert serve() == name
            assert asyncio.run(asyncio.to_thread(serve)) == name  # pyright: ignore[reportArgumentType]
    jobs.put(None)
    worker.join()


@pytest.mark.parametrize("way", ["wait_for", "a task", "plain"])
def test_a_consumer_serves_others_without_a_user_however_it_takes(way: str):
    async def main() -> list[object]:
        jobs: asyncio.Queue[asyncio.Event] = asyncio.Queue()
        seen: list[object] = []

        async def work() -> None:
            while True:
                taking = jobs.get()
                done = await (
                    asyncio.wait_for(taking, 5)
                    if way == "wait_for"
                    else asyncio.create_task(taking)
                    if way == "a task"
                    else taking
                )
                seen.append(user())
                seen.append(await asyncio.to_thread(user))
                done.set()

        async def put() -> None:
            done = asyncio.Event()
            jobs.put_nowait(done)
            await done.wait()

        async def other() -> None:
            with spanledger.attribution(user="bob", request_id="bob"):
                await put()

        others = asyncio.Event()

        async def later() -> None:
            await others.wait()
            await other()

        bob = asyncio.create_task(later())
        with (
            spanledger.attribution(user="ada", request_id="outer"),
            spanledger.attribution(request_id="inner"),
            spanledger.feature("x"),
        ):
            task = asyncio.create_task(work())
            await put()
            others.set()
            await bob
            assert user() == "ada"
        task.cancel()
        return seen

    assert asyncio.run(main()) == ["ada", "ada", None, None]


def test_a_worker_of_blocks_in_a_job_serves_others_without_a_user():
    jobs: queue.Queue[Any] = queue.Queue()
    seen: list[object] = []

    def work() -> None:
        while (done := jobs.get()) is not None:
            seen.append(user())
            done.set()

    with spanledger.attribution(feature="digest", request_id="nightly"):
        for number, name in enumerate(("ada", "bob", "cyd")):
            with spanledger.attribution(user=name):
                if number == 0:
                    threading.Thread(target=work, daemon=True).start()
                done = threading.Event()
                jobs.put(done)
                assert done.wait(5)
    jobs.put(None)
    assert seen == ["ada", None, None]


def test_a_queue_is_pickled_as_before():
    jobs: asyncio.Queue[int] = asyncio.Queue()
    with spanledger.attribution(user="ada", request_id="r"):
        jobs.put_nowait(1)
    assert pickle.loads(pickle.dumps(jobs)).get_nowait() == 1


def test_tasks_that_renew_themselves_keep_nothing():
    async def tick(left: int) -> None:
        with spanledger.attribution(user="ada", request_id=str(left)), spanledger.feature("x"):
            if left:
                asyncio.get_running_loop().create_task(tick(left - 1))
            else:
                scope, depth = current().scope, 0
                while scope is not None:
                    scope, depth = scope.parent, depth + 1
                over.set_result((len(entered_scopes.get()), depth))

    async def main() -> tuple[int, int]:
        nonlocal over
        over = asyncio.get_running_loop().create_future()
        await tick(500)
        return await over

    over: Any = None
    blocks, depth = asyncio.run(main())
    assert max(blocks, depth) < 10
