"""A ledger in memory's reach for every test: real SDKs, a loopback provider, a spool in a temporary directory."""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry import context as otel_context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from alert_receiver import Receiver
from canned import Canned
from empty_ledger import empty_ledger
from redis_server import RedisServer
from spanledger.capture.processor import LedgerProcessor
from spanledger.context import queues, runtime_context, servers, threads
from spanledger.context.open_scopes import entered_scopes
from spanledger.hooks.google import STREAMS, GooglePatches
from spanledger.hooks.google_interactions import GoogleInteractionsPatches
from spanledger.hooks.http_clients import HOOKS as HTTP_HOOKS
from spanledger.hooks.http_clients import HttpPatches
from spanledger.hooks.stainless import StainlessPatches
from spanledger.hooks.websockets import GOOGLE_MODULE, OPENAI_MODULES, WebSocketPatches
from spanledger.limits import api
from spanledger.limits.estimate import tokenizer
from spanledger.limits.store.memory import MemoryStore
from spanledger.limits.store.protocol import Store
from spanledger.limits.store.redis import RedisStore
from spanledger.pricing import calculator
from spanledger.providers import anthropic, by_host, google, openai
from spanledger.runtime import finalizers, guard, notices, settings
from spanledger.semconv import provider_hosts
from spanledger.spool.writer import SUFFIX, Spool
from spanledger_clickhouse import http_client
from spanledger_clickhouse.database.connection import Target, open_client
from spanledger_clickhouse.rows.rows import COLUMNS, rows

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from programs import Programs, environment  # noqa: E402
from spanledger_clickhouse.demo.loopback_provider import Provider, Sold  # noqa: E402

RESOURCE = Resource({"service.name": "tests", "deployment.environment.name": "ci"})


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own, no settings of the machine's, and no coverage of child processes."""
    for name in list(os.environ):
        if name.startswith(
            ("SPANLEDGER_", "COVERAGE_PROCESS_", "OTEL_", "OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_")
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(settings, "_pinned_directory", "")
    notices._logged_at.clear()  # what an earlier test met
    notices._unwritten.clear()
    api.reset()  # the limiter of the process, which an earlier test may have made
    return tmp_path / "state" / "spanledger"


@pytest.fixture(autouse=True)
def nothing_swallowed() -> Iterator[None]:
    """Fail a test in which `quietly` kept an exception from us, unless the test took it out of `failures`."""
    guard.failures.clear()
    yield
    assert not guard.failures, f"swallowed: {dict(guard.failures)}"


@pytest.fixture(autouse=True)
def clients_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the HTTP clients of a test: the garbage collector may find a socket before the client that would close it."""
    opened: list[weakref.ref[httpx2.Client]] = []
    make = httpx2.Client.__init__

    @functools.wraps(make)  # google-genai looks at its parameters
    def made(client: httpx2.Client, *arguments: Any, **options: Any) -> None:
        make(client, *arguments, **options)
        opened.append(weakref.ref(client))

    monkeypatch.setattr(httpx2.Client, "__init__", made)
    yield
    for client in [client for reference in opened if (client := reference()) is not None]:
        client.close()


@pytest.fixture
def public_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The loopback provider counts as one on the internet; prices that were found for hosts are forgotten."""

    def forget() -> None:
        calculator._resolve.cache_clear()
        calculator._flat_rates.cache_clear()

    monkeypatch.setattr("spanledger.semconv.provider_hosts.is_private", lambda host: False)
    forget()
    yield
    forget()


@pytest.fixture
def provider() -> Iterator[Provider]:
    server = Provider().start()
    yield server
    server.shutdown()
    server.server_close()


class Recorded:
    """What the ledger of a test holds."""

    def __init__(self, directory: Path) -> None:
        self.spool = Spool(directory, 1 << 30)
        self.tracing = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
        self.processor = LedgerProcessor(self.spool)
        self.tracing.add_span_processor(self.processor)

    def tracer(self, name: str) -> Callable[[], Any]:
        return lambda: self.tracing.get_tracer(f"spanledger.{name}", "test")

    @property
    def lines(self) -> list[bytes]:
        finalizers.wait(5)  # what the collector found ends in a thread of its own
        files = sorted(self.spool.directory.glob(f"*{SUFFIX}"))
        return [line for file in files for line in file.read_bytes().splitlines(keepends=True)]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows so far, in the order in which the calls ended."""
        return [dict(zip(COLUMNS, row, strict=True)) for line in self.lines for row in rows(line)]

    @property
    def row(self) -> dict[str, Any]:
        [row] = self.rows
        return row


@pytest.fixture
def ledger(own_state: Path) -> Iterator[Recorded]:
    """The three SDKs, instrumented, recording into a spool."""
    recorded = Recorded(own_state / "spool")
    doors: list[Any] = []
    for module, reader in (("openai", openai), ("anthropic", anthropic)):
        base_client = importlib.import_module(f"{module}._base_client")
        door = StainlessPatches(base_client, reader, recorded.tracer(module), frozenset({"127.0.0.1"}))
        door.install()
        doors.append(door)
    gate = GooglePatches(google, recorded.tracer("google_genai"))
    gate.install(importlib.import_module("google.genai._api_client"))
    for name in STREAMS:
        gate.keep_caller_context(importlib.import_module(name))
    doors.append(gate)
    second = GoogleInteractionsPatches(google, recorded.tracer("google_genai"))
    second.install(importlib.import_module("google.genai._gaos.basesdk"))
    live = WebSocketPatches(google, recorded.tracer("google_genai"), "127.0.0.1")
    live.install_google(importlib.import_module(GOOGLE_MODULE))
    sockets = WebSocketPatches(openai, recorded.tracer("openai"), "127.0.0.1")
    for name in OPENAI_MODULES:
        sockets.install_openai(importlib.import_module(name))
    net = HttpPatches(recorded.tracer("http"), observe=True)
    for name in HTTP_HOOKS.keys() - {"aiohttp"}:
        net.install(importlib.import_module(name))
    doors += [second, live, sockets, net]
    yield recorded
    for door in doors:
        door.remove()
    recorded.spool.close()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's runtime context, as the start of a program wraps it."""
    monkeypatch.setattr(otel_context, "_RUNTIME_CONTEXT", otel_context._RUNTIME_CONTEXT)
    runtime_context.watch_context()
    servers.watch_servers()


@pytest.fixture
def by_hand(ledger: Recorded, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is recorded by hand goes to the ledger of the test, with threads and queues as a program starts them; what a test
    leaves in the context of its thread is not there for the next one."""
    monkeypatch.setattr("spanledger.manual.bootstrap.tracer", lambda scope, _=None: ledger.tracer("manual")())
    token, blocks = otel_context.attach(otel_context.Context()), entered_scopes.set(())
    threads.carry_context()
    queues.watch_queues()
    yield
    queues.stop_watching()
    threads.stop_carrying()
    entered_scopes.reset(blocks)
    otel_context.detach(token)


@pytest.fixture
def serves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Says which provider answers at "host:port" of a URL."""

    def forget() -> None:
        hosts = (
            provider_hosts.configured_hosts,
            provider_hosts.provider_for_host,
            provider_hosts.is_billed,
            provider_hosts.is_unknown,
        )
        for cache in (*hosts, by_host.provider_at, calculator._resolve, calculator._flat_rates):
            cache.cache_clear()

    def say(url: str, provider: str) -> None:
        monkeypatch.setenv("SPANLEDGER_MODEL_HOSTS", f"{url.partition('//')[2]}={provider}")
        forget()

    yield say
    monkeypatch.undo()
    forget()


@pytest.fixture
def canned() -> Iterator[Canned]:
    server = Canned()
    yield server
    server.close()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A server for alerts; a failed delivery is retried without delay."""
    monkeypatch.setattr(http_client, "BACKOFF_SECONDS", 0.01)
    server = Receiver()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of real tokenizers come over the network."""
    monkeypatch.setattr(tokenizer, "installed", lambda: False)


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Enforces a monthly budget per user: `limited(amount_usd, toml)`, the TOML being its action and what follows it."""

    def enforce(amount: str, toml: str = 'action = "block"\n') -> None:
        file = tmp_path / "limits.toml"
        budget = f'[[budget]]\nname = "u"\nwindow = "month"\nper = "user"\namount_usd = {amount}\n'
        file.write_text(f"enforce = true\n{budget}{toml}")
        monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
        api.reset()

    yield enforce
    api.reset()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """A Redis without data, shared by the tests of a worker: they neither stop nor pause it."""
    monkeypatch.setenv("SPANLEDGER_REDIS_TIMEOUT_MS", "5000")  # a loaded machine does not keep 20 ms
    RedisStore(redis_server.url, deadline=2.0)._client.flushall()
    return redis_server


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Store:
    """Both stores of reservations, empty."""
    return (
        MemoryStore() if request.param == "memory" else RedisStore(request.getfixturevalue("redis").url, deadline=2.0)
    )


@pytest.fixture
def own_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A Redis that its test may stop and pause."""
    monkeypatch.setenv("SPANLEDGER_REDIS_TIMEOUT_MS", "5000")
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def programs(provider: Provider, tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(tmp_path, environment(provider, tmp_path))
    yield programs
    for program in programs.started:
        program.kill()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[tuple[Any, Target]]:
    """A ledger in the embedded engine, its schema in place."""
    where = empty_ledger(tmp_path / "chdb")
    with open_client(where) as client:
        yield client, where


@pytest.fixture
def front_in(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Starts a stand-in for a ClickHouse server over HTTP in a time zone; returns its DSN."""
    servers: list[subprocess.Popen[str]] = []

    def start(zone: str) -> str:
        command = [sys.executable, Path(__file__).parent / "clickhouse_front.py", tmp_path / f"server{len(servers)}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TZ": zone})
        servers.append(process)
        assert process.stdout is not None
        return f"clickhouse://default:s3cret@127.0.0.1:{process.stdout.readline().strip()}/llm"

    yield start
    for process in servers:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def migrated_front(front_in: Callable[[str], str], tmp_path: Path) -> str:
    """A ClickHouse server with an empty ledger."""
    empty_ledger(tmp_path / "server0", "llm")
    return front_in(os.environ.get("TZ", "UTC"))


@pytest.fixture
def front(front_in: Callable[[str], str]) -> str:
    """A ClickHouse server in the zone of this process."""
    return front_in(os.environ.get("TZ", "UTC"))


def truth(sold: Sold) -> dict[str, Any]:
    """What the provider sold, in the ledger's columns."""
    from decimal import Decimal

    return {
        "response_model": sold.model,
        "input_tokens": sold.input,
        "cache_read_tokens": sold.cache_read,
        "cache_write_tokens": sold.cache_write,
        "cache_write_1h_tokens": sold.cache_write_1h,
        "output_text_tokens": sold.output,
        "reasoning_tokens": sold.reasoning,
        "cost_usd": None if sold.picousd is None else Decimal(sold.picousd).scaleb(-12),
        "usage_source": "exact",
        "outcome": "ok",
    }


def facts(row: dict[str, Any]) -> dict[str, Any]:
    """The same columns of a row; `input_tokens` is the sum of its meters, as the table's alias is."""
    total = sum(row[column] for column in INPUTS)
    names = set(truth(Sold("", "", "", "", 0))) - {"input_tokens"}
    return {"input_tokens": total, **{name: row[name] for name in names}}


INPUTS = (
    "input_uncached_tokens",
    "input_audio_tokens",
    "input_image_tokens",
    "input_video_tokens",
    "cache_read_tokens",
    "cache_read_audio_tokens",
    "cache_read_image_tokens",
    "cache_read_video_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "cache_write_12h_tokens",
)


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)
