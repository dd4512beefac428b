"""Workers, pools and servers that serve several: what they take out of queues, and where a request begins and ends."""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace import SpanKind
from starlette.background import BackgroundTask

import spanledger
from calls_by_hand import ask, user, users
from conftest import Recorded
from spanledger import middleware
from spanledger.context import background_tasks, propagation, threads
from spanledger.context.open_scopes import MAX_DEPTH, Response, Taken, next_order, response, taken
from spanledger.middleware import WsgiAttribution

pytestmark = pytest.mark.usefixtures("by_hand")


class Untouchable:
    """A lazy object outside of what it needs."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("outside of a request")


def one(_: object) -> int:
    return 1


def test_what_is_given_to_a_pool_is_not_looked_into():
    with ThreadPoolExecutor(1) as pool, spanledger.attribution(user="ada"):
        assert pool.submit(partial(one, Untouchable())).result(5) == 1
    assert asyncio.run(asyncio.to_thread(one, Untouchable())) == 1  # pyright: ignore[reportArgumentType]
    assert not threads.takes_from_queue(Untouchable())


def test_what_is_taken_out_of_a_queue_is_not_looked_into():
    jobs: queue.Queue[Any] = queue.Queue()
    seen: queue.Queue[object] = queue.Queue()

    def work() -> None:
        for _ in range(2):
            jobs.get()
            seen.put(user())

    with spanledger.attribution(user="ada", request_id="r"):
        threading.Thread(target=work, daemon=True).start()
        with spanledger.attribution(user="bob", request_id="b"):
            jobs.put(Untouchable())
            jobs.put(Untouchable())
        assert [seen.get(timeout=5) for _ in range(2)] == [None, None]


class ChatCompletion:
    """An answer that somebody judges."""


ChatCompletion.__module__ = "openai.types.chat"


@pytest.mark.parametrize("job", ["text", ("a", "tuple"), {"type": "http.fetch"}, ChatCompletion(), 7])
def test_a_worker_that_puts_a_job_back_still_serves_others_without_a_user(job: object):
    jobs: queue.Queue[Any] = queue.Queue()
    seen: queue.Queue[object] = queue.Queue()

    def work() -> None:
        for attempt in range(4):
            taken_out = jobs.get()
            seen.put(user())
            if attempt == 0:
                jobs.put(taken_out)  # again, later

    with spanledger.attribution(user="ada", request_id="r"):
        threading.Thread(target=work, daemon=True).start()
        for name in ("bob", "cyd", "dan"):
            with spanledger.attribution(user=name, request_id=name):
                jobs.put(job)
        assert [seen.get(timeout=5) for _ in range(4)] == [None] * 4


def test_a_client_that_is_given_back_does_not_bring_the_user_back():
    class Client:
        pass

    clients: queue.Queue[Any] = queue.Queue()
    clients.put(Client())
    jobs: queue.Queue[Any] = queue.Queue()
    seen: queue.Queue[object] = queue.Queue()

    def work() -> None:
        client = clients.get()
        jobs.get()
        clients.put(client)
        seen.put(user())

    with spanledger.attribution(user="bob", request_id="b"):
        jobs.put(("a", "tuple"))
    with spanledger.attribution(user="ada", request_id="r"):
        threading.Thread(target=work, daemon=True).start()
        assert seen.get(timeout=5) is None


def test_keys_that_functions_in_a_pool_are_lent_keep_the_users():
    keys: queue.Queue[str] = queue.Queue()
    keys.put("a key")

    def use() -> object:
        key = keys.get()
        try:
            return user()
        finally:
            keys.put(key)

    with ThreadPoolExecutor(1) as pool:
        for name in ("ada", "bob", "cyd"):
            with spanledger.attribution(user=name, request_id=name):
                assert pool.submit(use).result(5) == name


def test_waiting_for_a_queue_of_ones_own_loses_no_user():
    async def main() -> list[object]:
        news: asyncio.Queue[int] = asyncio.Queue()
        filled: queue.Queue[str] = queue.Queue()
        filled.put("at the start")

        def borrow() -> object:
            filled.get()
            return user()

        with spanledger.attribution(user="ada", request_id="r"):
            news.put_nowait(1)
            await news.get()
            return [await asyncio.to_thread(borrow), user()]

    assert asyncio.run(main()) == ["ada", "ada"]


def test_a_job_that_is_a_background_task_does_not_get_its_workers_user(ledger: Recorded, watched: None):
    background_tasks.keep_background_tasks()

    async def main() -> None:
        with ledger.tracing.get_tracer("server").start_as_current_span("GET /", kind=SpanKind.SERVER):
            token = otel_context.attach(baggage.set_baggage("user.id", "ada"))
            sending = response.set(Response())
            worker = asyncio.create_task(work())
            otel_context.detach(token)
            await worker
            response.reset(sending)

    async def work() -> None:
        taken.set(Taken(next_order()))  # it has taken work of others
        await BackgroundTask(ask)()

    asyncio.run(main())
    assert users(ledger)[0][0] is None


def test_what_is_within_many_scopes_is_over_with_its_request():
    left: list[object] = []
    over, done = threading.Event(), threading.Event()

    def later() -> None:
        over.wait(5)
        left.append(user())
        done.set()

    def nested(depth: int) -> None:
        if depth:
            with spanledger.attribution(labels={"depth": str(depth)}):
                nested(depth - 1)
        else:
            threading.Thread(target=later, daemon=True).start()

    with spanledger.attribution(user="ada", request_id="r"):
        nested(MAX_DEPTH + 10)
    over.set()
    assert done.wait(5)
    assert left == [None]


def test_what_is_said_around_a_server_counts_in_its_requests(watched: None):
    async def serve() -> list[object]:
        taken.set(Taken(next_order(), is_request=True))  # as a server's patch does
        entries = spanledger.carry()
        return [entries.get("spanledger.team"), entries.get("user.id"), entries.get("spanledger.tenant.id")]

    async def main() -> list[object]:
        with spanledger.attribution(user="ada", request_id="before"):  # on the same connection
            return await asyncio.create_task(serve())

    token = otel_context.attach(baggage.set_baggage("tenant.id", "acme"))
    with spanledger.attribution(team="search"):
        served = asyncio.run(main())
    otel_context.detach(token)
    assert served[:2] == ["search", None]


def test_a_scope_that_a_middleware_leaves_outlives_the_task_that_entered_it():
    async def enter() -> Any:
        scope, context = spanledger.attribution(user="ada", request_id="r").open()
        return scope, context

    scope, context = asyncio.run(enter())
    token = otel_context.attach(context)
    assert user() == "ada"
    otel_context.detach(token)
    scope.close()


def test_the_scope_of_a_celery_task_is_over_whatever_the_task_leaves_attached(ledger: Recorded):
    signals: dict[str, Any] = {}
    celery = SimpleNamespace(signals=SimpleNamespace())

    def connect(name: str, receiver: Any, **_: Any) -> None:
        signals[name] = receiver

    for name in ("before_task_publish", "task_prerun", "task_postrun"):
        setattr(celery.signals, name, SimpleNamespace(connect=partial(connect, name)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "celery", celery)  # pyright: ignore[reportArgumentType]
        middleware.celery_attribution()

    def run(task_id: str, carrier: dict[str, str], work: Any) -> None:
        task = SimpleNamespace(name="t", request=SimpleNamespace(spanledger=carrier, is_eager=False))
        signals["task_prerun"](task_id=task_id, task=task)
        work()
        signals["task_postrun"](task_id=task_id)

    propagation.wrap_propagator()
    run("1", {"baggage": "user.id=ada"}, lambda: otel_context.attach(otel_context.set_value("anything", 1)))
    run("2", {"baggage": "user.id=bob"}, ask)
    run("3", {}, ask)
    assert [name for name, _ in users(ledger)] == ["bob", None]


@pytest.mark.parametrize("name", ["王", "玉", "Łukasz"])
def test_a_header_that_a_server_has_decoded_stays_as_it_is(name: str):
    seen: list[object] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(user())
        return []

    wsgi: Any = WsgiAttribution(app, user="x-user")
    list(wsgi({"HTTP_X_USER": name}, None))
    list(wsgi({"HTTP_X_USER": name.encode().decode("latin-1")}, None))
    assert seen == [name, name]


def test_what_is_carried_under_another_name_is_not_hidden(watched: None):
    token = otel_context.attach(baggage.set_baggage("enduser.id", "ada"))
    luggage = spanledger.carry()
    otel_context.detach(token)
    with spanledger.attribution(user="bob"), spanledger.carried(luggage):
        carrier: dict[str, str] = {}
        W3CBaggagePropagator().inject(carrier)
        assert spanledger.carry() == {"enduser.id": "ada"}
