"""Scopes and middleware: attribution applies to every call inside a scope, and to no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind

import spanledger
from conftest import Recorded
from spanledger.capture.sampler import wrap_sampler
from spanledger.context import baggage as baggage_attribution
from spanledger.context import threads, unattributed
from spanledger.context.propagation import FilteringPropagator
from spanledger.context.unattributed import Strictness
from spanledger.middleware import AsgiAttribution, WsgiAttribution
from spanledger_clickhouse.demo.loopback_provider import Provider

WHO = ("user_id", "feature", "request_id", "tenant_id", "customer_tier", "session_id")


@pytest.fixture
def ask(provider: Provider, ledger: Recorded):
    with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
        yield lambda text="x": client.embeddings.create(model="text-embedding-3-small", input=text)


def values(row, *columns):
    return tuple(row[column] for column in columns)


def test_a_scope_sets_every_dimension(ask, ledger: Recorded):
    with spanledger.attribution(
        user="ada", feature="summarize", request_id="r1", tenant="acme", tier="pro", session="s", labels={"cohort": "b"}
    ):
        ask()
    row = ledger.row
    assert values(row, *WHO) == ("ada", "summarize", "r1", "acme", "pro", "s")
    assert values(row, "labels", "attribution_reason", "code_file") == ({"cohort": "b"}, "", "")


def test_blocks_nest_and_end(ask, ledger: Recorded):
    with spanledger.attribution(user="ada", feature="outer"):
        with spanledger.feature("inner"):
            ask()
        ask()
    ask()
    assert [values(row, "user_id", "feature") for row in ledger.rows] == [
        ("ada", "inner"),
        ("ada", "outer"),
        (None, None),
    ]


def test_decorators_work_on_sync_async_and_generator_functions(ask, ledger: Recorded):
    @spanledger.feature("plain")
    def plain():
        ask()

    @spanledger.feature("coroutine")
    async def coroutine():
        await asyncio.sleep(0)
        ask()

    @spanledger.feature("generator")
    def generator():
        ask()
        received = yield 1
        assert received == "sent"
        ask()
        try:
            yield 2
        except KeyError:
            ask()
        return "returned"

    @spanledger.feature("async generator")
    async def async_generator():
        ask()
        yield 1
        ask()

    plain()
    asyncio.run(coroutine())
    steps = generator()
    assert next(steps) == 1
    ask()  # between the steps of a generator its scope is closed
    assert steps.send("sent") == 2
    with pytest.raises(StopIteration, match="returned"):
        steps.throw(KeyError())

    async def consume():
        return [value async for value in async_generator()]

    assert asyncio.run(consume()) == [1]
    assert [row["feature"] for row in ledger.rows] == [
        "plain", "coroutine", "generator", None, "generator", "generator", "async generator", "async generator",
    ]  # fmt: skip


def test_one_scope_can_be_entered_concurrently(ask, ledger: Recorded):
    scope = spanledger.feature("shared")

    @scope
    def work(n: int):
        with scope:
            ask(str(n))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert {row["feature"] for row in ledger.rows} == {"shared"}
    assert baggage.get_all() == {}


def test_a_business_unit_has_its_own_cost(ask, ledger: Recorded):
    work = spanledger.unit("pdf", quantity=50, unit="page")
    for _ in range(2):
        with work:
            ask()
            ask()
    rows = ledger.rows
    assert {values(row, "unit_name", "unit_quantity", "unit_measure") for row in rows} == {("pdf", 50.0, "page")}
    assert len({row["unit_id"] for row in rows}) == 2
    with pytest.raises(ValueError, match="greater than 0"):
        spanledger.unit("pdf", quantity=0)


def test_attribution_can_be_carried_by_hand(ask, ledger: Recorded):
    with spanledger.attribution(user="ada", feature="job"):
        luggage = spanledger.carry()
    with spanledger.carried(luggage):
        ask()
    with spanledger.carried(None):
        ask()
    assert [row["user_id"] for row in ledger.rows] == ["ada", None]


def test_only_allowed_labels_are_kept(ask, ledger: Recorded, monkeypatch):
    monkeypatch.setenv("SPANLEDGER_LABELS", "cohort, plan")
    baggage_attribution._allowed_labels.cache_clear()
    with spanledger.attribution(labels={"cohort": "a", "password": "x"}):
        ask()
    baggage_attribution._allowed_labels.cache_clear()
    assert ledger.row["labels"] == {"cohort": "a"}


def test_user_ids_can_be_pseudonyms(ask, ledger: Recorded, monkeypatch):
    monkeypatch.setenv("SPANLEDGER_HASH_USER_ID", "a secret key")
    baggage_attribution._hashing_key.cache_clear()
    with spanledger.attribution(user="ada@example.com"):
        ask()
        ask()
    baggage_attribution._hashing_key.cache_clear()
    first, second = (row["user_id"] for row in ledger.rows)
    assert first == second == baggage_attribution.pseudonym("ada@example.com", b"a secret key")
    assert b"ada@example.com" not in b"".join(ledger.lines)


def test_an_unattributed_call_is_logged_once_per_call_site_and_counted(ask, ledger: Recorded, caplog, monkeypatch):
    monkeypatch.setattr("spanledger.capture.processor.unattributed_calls", unattributed.UnattributedCalls())
    for _ in range(3):
        ask()
    assert ["neither this program nor middleware says whose it is" in record.message for record in caplog.records] == [
        True
    ]


def test_strict_mode_raises_before_anything_is_sent(ask, provider: Provider, ledger: Recorded):
    ledger.processor.strictness = Strictness(("feature", "user"), raises=True)
    with spanledger.feature("x"), pytest.raises(spanledger.AttributionRequired, match="has no user"):
        ask()
    assert provider.sold == []
    with spanledger.attribution(user="ada", feature="x"):
        ask()
    assert len(provider.sold) == 1


def test_strict_mode_warns_by_default(ask, ledger: Recorded, caplog, monkeypatch):
    monkeypatch.setenv("SPANLEDGER_REQUIRE", "tenant,nonsense")
    ledger.processor.strictness = unattributed.strictness_from_settings()
    with spanledger.attribution(user="ada", feature="x", request_id="r"):
        ask()
        ask()
    assert "SPANLEDGER_REQUIRE: nonsense is none of" in caplog.text
    assert sum("has no tenant" in record.message for record in caplog.records) == 1


# --- strangers ------------------------------------------------------------------------------------------------


def extracted(carrier: dict[str, str], *, trusting: bool = False):
    guard = FilteringPropagator(W3CBaggagePropagator(), trusting=trusting)  # the global one may be guarded already
    return baggage.get_all(guard.extract(carrier))


SPOOFED = {"baggage": "user.id=victim,feature=x,spanledger.label.a=b,theirs=1"}


def test_attribution_baggage_of_an_untrusted_sender_is_dropped():
    assert extracted(SPOOFED) == {"theirs": "1"}


def test_a_gateway_can_be_trusted():
    assert extracted(SPOOFED, trusting=True)["user.id"] == "victim"


def test_an_untrusted_sender_does_not_override_existing_attribution():
    guard = FilteringPropagator(propagate.get_global_textmap(), trusting=False)
    known = baggage.set_baggage("user.id", "ada")
    assert baggage.get_all(guard.extract(SPOOFED, known)) == {"user.id": "ada", "theirs": "1"}


def test_missing_values_are_not_sent_as_text():
    guard = FilteringPropagator(W3CBaggagePropagator(), trusting=False)
    carrier: dict[str, str] = {}
    guard.inject(carrier, baggage.set_baggage("user.id", None, baggage.set_baggage("theirs", None)))
    assert carrier == {"baggage": "theirs=None"}


# --- sampling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "fewest", "most"), [(ParentBased(TraceIdRatioBased(0.1)), 1, 60), (ALWAYS_OFF, 0, 0)]
)
def test_sampling_does_not_affect_the_ledger(sampler, fewest, most, provider: Provider, ledger: Recorded):
    exported = InMemorySpanExporter()
    tracing = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    tracing.add_span_processor(SimpleSpanProcessor(exported))
    tracing.add_span_processor(ledger.processor)
    wrap_sampler(tracing)
    wrap_sampler(tracing)
    ledger.tracing = tracing
    with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
        for _ in range(200):
            client.embeddings.create(model="text-embedding-3-small", input="x")
    assert len(ledger.rows) == 200
    assert fewest <= len(exported.get_finished_spans()) <= most


# --- requests ------------------------------------------------------------------------------------------------------


def test_the_server_span_has_the_total_of_its_calls_including_tasks(provider: Provider, ledger: Recorded):
    ended = InMemorySpanExporter()
    ledger.tracing.add_span_processor(SimpleSpanProcessor(ended))
    tracer = ledger.tracing.get_tracer("server")

    async def serve() -> None:
        async with openai.AsyncOpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:

            async def child(n: int) -> None:
                with tracer.start_as_current_span("child"):
                    await client.chat.completions.create(
                        model="gpt-4.1-mini", messages=[{"role": "user", "content": f"child {n}"}]
                    )

            with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
                await asyncio.gather(*(asyncio.create_task(child(n)) for n in range(50)))

    asyncio.run(serve())
    [server] = [span for span in ended.get_finished_spans() if span.name == "GET /"]
    assert server.attributes == {
        "spanledger.request.calls": 50,
        "spanledger.request.cost_picousd": sum(sold.picousd for sold in provider.sold),
        "spanledger.request.tokens": sum(sold.input + sold.output for sold in provider.sold),
    }


def test_a_remote_trace_without_baggage_lost_its_context_at_the_ingress(ask, ledger: Recorded):
    remote = trace.SpanContext(1 << 100, 1 << 40, is_remote=True, trace_flags=trace.TraceFlags(1))
    parent = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    tracer = ledger.tracing.get_tracer("server")
    with tracer.start_as_current_span("GET /", parent, kind=SpanKind.SERVER):
        ask()
    with tracer.start_as_current_span("GET /", kind=SpanKind.SERVER):
        ask()
    assert [values(row, "attribution_reason", "context_lost_at") for row in ledger.rows] == [
        ("no_baggage", "ingress"), ("no_baggage", ""),
    ]  # fmt: skip


# --- survival --------------------------------------------------------------------------------------------------------


@pytest.fixture
def carried_threads() -> Iterator[None]:
    threads.carry_context()
    yield
    threads.stop_carrying()
    assert not threads._patched


class Running(threading.Thread):
    """A thread that overrides `run`, as many do."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def run(self) -> None:
        self.act()


def started(kind: str, act: Callable[[], object]) -> None:
    if kind == "pool":
        with ThreadPoolExecutor(1) as pool:
            pool.submit(act).result()
        return
    thread = {
        "thread": lambda: threading.Thread(target=act),
        "subclass": lambda: Running(act),
        "timer": lambda: threading.Timer(0.0, act),
    }[kind]()
    thread.start()
    thread.join()
    assert "run" not in vars(thread), "it does not keep itself alive"


@pytest.mark.parametrize("kind", ["thread", "subclass", "timer", "pool"])
def test_a_thread_begins_with_the_context_of_its_starter(kind: str, carried_threads: None):
    seen: list[object] = []
    with spanledger.attribution(user="ada"):
        started(kind, lambda: seen.append(baggage.get_baggage("user.id")))
    started(kind, lambda: seen.append(baggage.get_baggage("user.id")))
    assert seen == ["ada", None]


def test_a_worker_of_a_pool_does_not_keep_the_context_in_which_it_was_started(carried_threads: None):
    with ThreadPoolExecutor(1) as pool:
        with spanledger.attribution(user="ada"):
            assert pool.submit(baggage.get_baggage, "user.id").result() == "ada"
        assert pool.submit(baggage.get_baggage, "user.id").result() is None


def test_a_thread_that_could_not_be_started_can_be_started_again(
    carried_threads: None, monkeypatch: pytest.MonkeyPatch
):
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(baggage.get_baggage("user.id")))

    def no_more(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with spanledger.attribution(user="ada"):
        with monkeypatch.context() as patched:
            for name in ("_start_new_thread", "_start_joinable_thread"):  # until 3.12, and from 3.13 on
                patched.setattr(threading, name, no_more, raising=False)
            with pytest.raises(RuntimeError):
                thread.start()
        thread.start()
        thread.join()
    assert seen == ["ada"]


def test_unusual_threads_start_as_they_would_without_us(carried_threads: None):
    seen: list[str] = []

    class Property(threading.Thread):
        @property
        def run(self):
            return lambda: seen.append("property")

    class Nameless(threading.Thread):
        @property
        def name(self):
            return None

        def run(self) -> None:
            seen.append("nameless")

    class Unready(threading.Thread):
        def __init__(self) -> None:
            pass

    own = threading.Thread()
    own.run = lambda: seen.append("own")
    with spanledger.attribution(user="ada"):
        for thread in (Property(), Nameless(), own):
            thread.start()
            thread.join()
        with pytest.raises(RuntimeError, match="__init__"):
            Unready().start()
        with pytest.raises(RuntimeError, match="once"):
            own.start()
    assert seen == ["property", "nameless", "own"]
    assert "run" in vars(own)


def test_another_patch_of_threads_survives_ours(carried_threads: None, monkeypatch: pytest.MonkeyPatch):
    """As of error trackers, which wrap the function of `run` and call it with the thread."""
    seen: list[object] = []
    ours = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        run = getattr(thread.run, "__func__", thread.run)
        thread.run = lambda: run(thread)
        ours(thread)

    with spanledger.attribution(user="ada"):
        thread = threading.Thread(target=lambda: seen.append(baggage.get_baggage("user.id")))
        monkeypatch.setattr(threading.Thread, "start", start)
        thread.start()
        thread.join()
    assert len(seen) == 1
    threads.stop_carrying()
    assert threading.Thread.start is start, "not ours any more"
    monkeypatch.undo()
    threading.Thread.start = getattr(ours, "__wrapped__")  # noqa: B009 - what it was before ours


def test_an_error_in_a_thread_of_a_pool_reaches_the_caller(carried_threads: None):
    with spanledger.attribution(user="ada"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(int, "7", base=8).result() == 7
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 / 0).result()


@pytest.mark.parametrize("names", ["threading", "flask, threading", "*"])
def test_threads_keep_their_own_context_where_that_is_switched_off(names: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", names)
    threads.carry_context()
    assert not threads._patched


def test_a_thousand_concurrent_requests_keep_their_users_apart(provider: Provider, ledger: Recorded):
    threads.carry_context()
    try:
        with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client, ThreadPoolExecutor(8) as pool:

            def call(text: str) -> None:
                client.embeddings.create(model="text-embedding-3-small", input=text)

            async def request(n: int) -> None:
                user, what = f"user-{n % 50}", f"feature-{n % 7}"
                text = f"{user} {what} r{n}"
                with spanledger.attribution(user=user, feature=what, request_id=f"r{n}"):
                    await asyncio.sleep(0)
                    kind = n % 4
                    if kind == 0:
                        await asyncio.to_thread(call, text)
                    elif kind == 1:
                        await asyncio.get_running_loop().run_in_executor(pool, call, text)
                    elif kind == 2:
                        thread = threading.Thread(target=call, args=(text,))
                        thread.start()
                        await asyncio.to_thread(thread.join)
                    else:
                        await asyncio.gather(asyncio.create_task(asyncio.to_thread(call, text)))

            async def load() -> None:
                gate = asyncio.Semaphore(40)

                async def gated(n: int) -> None:
                    async with gate:
                        await request(n)

                await asyncio.gather(*(gated(n) for n in range(1000)))

            asyncio.run(load())
    finally:
        threads.stop_carrying()
    true = sorted(tuple(sold.prompt.split()) for sold in provider.sold)
    assert len(true) == 1000
    assert sorted(values(row, "user_id", "feature", "request_id") for row in ledger.rows) == true


# --- middleware ----------------------------------------------------------------------------------------------------------


def test_asgi_middleware_reads_headers_and_routes(ask, ledger: Recorded):
    async def app(scope, receive, send):
        ask()

    wrapped = AsgiAttribution(
        app, user="x-user", tenant=lambda scope: scope["tenant"], routes={"/sum": "summarize", "/": "home"}
    )
    scope = {
        "type": "http",
        "path": "/sum/1",
        "headers": [(b"x-user", b"ada"), (b"x-request-id", b"r1")],
        "tenant": "acme",
    }
    asyncio.run(wrapped(scope, None, None))
    assert values(ledger.row, *WHO[:4]) == ("ada", "summarize", "r1", "acme")


def test_a_request_without_an_id_gets_one(ask, ledger: Recorded):
    async def app(scope, receive, send):
        ask()
        ask()

    asyncio.run(AsgiAttribution(app)({"type": "http", "path": "/", "headers": []}, None, None))
    first, second = (row["request_id"] for row in ledger.rows)
    assert first == second
    assert len(first) == 16


def test_a_failing_rule_is_skipped_and_the_request_is_served(ask, ledger: Recorded, caplog):
    from spanledger.runtime import guard

    async def app(scope, receive, send):
        ask()

    asyncio.run(
        AsgiAttribution(app, user=lambda scope: scope["no such"])(
            {"type": "http", "path": "/", "headers": []}, None, None
        )
    )
    assert ledger.row["user_id"] is None
    assert guard.failures.pop(("reading the user of a request", "KeyError")) == 1


def test_a_rule_that_returns_false_clears_the_callers_value(ask, ledger: Recorded):
    async def app(scope, receive, send):
        ask()

    with spanledger.attribution(feature="outer", user="ada"):
        wrapped = AsgiAttribution(app, feature=lambda scope: False, routes={"/known": "known"})
        for path in ("/", "/known"):
            asyncio.run(wrapped({"type": "http", "path": path, "headers": []}, None, None))
    assert [values(row, "user_id", "feature") for row in ledger.rows] == [("ada", None), ("ada", "known")]


def test_an_unknown_dimension_is_a_type_error():
    with pytest.raises(TypeError, match=r"usr: not a dimension; use user, feature"):
        spanledger.attribution(usr="ada")
    with pytest.raises(TypeError, match=r"usr: not a dimension; use user, feature"):
        AsgiAttribution(None, usr="x-user")


def test_wsgi_middleware_covers_a_streamed_body(ask, ledger: Recorded):
    def app(environ, start_response):
        ask()

        def body():
            ask()
            yield b"x"

        return body()

    wrapped = WsgiAttribution(app, user="x-user", routes={"/chat": "chat"})
    answer = wrapped({"PATH_INFO": "/chat", "HTTP_X_USER": "ada"}, None)
    assert list(answer) == [b"x"]
    assert [values(row, "user_id", "feature") for row in ledger.rows] == [("ada", "chat")] * 2
    assert context.get_current() == {}
