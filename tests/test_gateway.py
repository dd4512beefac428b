"""The gateway: what it takes, what it answers, which spans it prices, and that it commits before it says so."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from backports import zstd
from click.testing import CliRunner
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)

from conftest import Recorded
from empty_ledger import empty_ledger
from foreign_spans import body, cost, foreign, protobuf
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert as writer
from spanledger_clickhouse.database import migrations
from spanledger_clickhouse.database.connection import DatabaseError, Target, open_client, resolve_target
from spanledger_clickhouse.database.insert import PoisonError
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.demo.run import free_port
from spanledger_clickhouse.gateway import request_body
from spanledger_clickhouse.gateway.group_commit import GroupCommitWriter
from spanledger_clickhouse.gateway.server import Gateway, Limits, parse_tokens
from spanledger_clickhouse.rows.rows import rows
from spanledger_clickhouse.ship import dead_letters

DEFAULTS = Limits()
URL = "http://gateway/v1/traces"


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return empty_ledger(tmp_path / "ledger")


class Served:
    """A gateway over embedded ClickHouse, spoken to in process."""

    def __init__(
        self, target: Target, spool: Path, known: dict[str, str] | None = None, limits: Limits = DEFAULTS
    ) -> None:
        self.target = target
        self.intake = GroupCommitWriter(target, spool, limits.waiting_bytes, refresh_rollups=False)
        self.gateway = Gateway(self.intake, known or {}, limits)
        self.intake.start()
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.gateway.app()))

    async def post(self, content: bytes, kind: str = "application/json", **headers: str) -> httpx.Response:
        return await self.client.post(URL, content=content, headers={"Content-Type": kind, **headers})

    def rows(self, columns: str = "span_id, cost_usd") -> list[tuple[Any, ...]]:
        with open_client(self.target) as client:
            return client.query(f"SELECT {columns} FROM spanledger.llm_calls FINAL ORDER BY span_id").result_rows


@pytest.fixture
async def served(target: Target, own_state: Path) -> AsyncIterator[Served]:
    served = Served(target, own_state / "spool")
    yield served
    await served.client.aclose()
    await asyncio.to_thread(served.intake.stop)


# --- what it takes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["", "gzip", "zstd", "deflate"])
@pytest.mark.parametrize("kind", ["application/json", "application/x-protobuf"])
async def test_spans_are_rows_before_the_response(served: Served, kind: str, encoding: str):
    content = body(foreign()) if kind.endswith("json") else protobuf(foreign())
    pack = {"": bytes, "gzip": gzip.compress, "zstd": zstd.compress, "deflate": zlib.compress}[encoding]
    answer = await served.post(pack(content), kind, **({"Content-Encoding": encoding} if encoding else {}))
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert served.rows() == [("1" * 16, cost(input=1000, output=100))]


async def test_a_spooled_span_is_the_same_row_through_the_gateway(served: Served, ledger: Recorded, provider: Provider):
    import openai

    with openai.OpenAI(base_url=provider.url + "/v1", api_key="k") as client:
        client.chat.completions.create(model="gpt-4.1-mini", messages=[{"role": "user", "content": "hi"}])
    answer = await served.post(b"".join(ledger.lines[-1:]))
    assert answer.json() == {}
    expected = ledger.rows[-1]
    assert served.rows("span_id, cost_usd, price_status, sequence, service") == [
        tuple(expected[name] for name in ("span_id", "cost_usd", "price_status", "sequence", "service"))
    ]


async def test_redelivery_changes_nothing(served: Served):
    for content in (body(foreign()), body(foreign()), body(foreign(), foreign(span_id="2" * 16))):
        assert (await served.post(content)).status_code == 200
    assert [row[0] for row in served.rows()] == ["1" * 16, "2" * 16]


async def test_invalid_utf_8_does_not_drop_the_batch(served: Served):
    content = protobuf(foreign(user__id="gon\x7fe"), foreign(span_id="2" * 16)).replace(b"gon\x7fe", b"gon\xffe")
    assert (await served.post(content, "application/x-protobuf")).status_code == 200
    assert served.rows("user_id") == [("gon\ufffde",), (None,)]


@pytest.mark.parametrize(
    ("content", "kind", "encoding", "status"),
    [
        (b"{", "application/json", "", 400),
        (b"[]", "application/json", "", 400),
        (b"\xff\xff", "application/x-protobuf", "", 400),
        (b"not gzip", "application/json", "gzip", 400),
        (gzip.compress(b"{}", mtime=0)[:-4], "application/json", "gzip", 400),
        (b"{}", "application/json", "br", 415),
        (b"{}", "text/plain", "", 415),
        (b" " * (2 << 20), "application/json", "", 413),
        (gzip.compress(b" " * (64 << 20), mtime=0), "application/json", "gzip", 413),
        (zstd.compress(b" " * (64 << 20)), "application/json", "zstd", 413),
        (b'{"resourceSpans": []}', "application/json", "", 200),
    ],
)  # fmt: skip
async def test_an_invalid_request_is_refused_permanently(
    target: Target, own_state: Path, content, kind, encoding, status
):
    served = Served(target, own_state, limits=Limits(request_bytes=4 << 20))
    answer = await served.post(content, kind, **({"Content-Encoding": encoding} if encoding else {}))
    assert answer.status_code == status
    assert served.intake.waiting_bytes == 0
    await asyncio.to_thread(served.intake.stop)


async def test_a_bearer_token_names_the_tenant_whatever_the_span_says(target: Target, own_state: Path):
    served = Served(target, own_state, parse_tokens("acme=0123456789abcdef, *=fedcba9876543210"))
    mine = body(foreign(spanledger__tenant__id="globex"))
    refused = await served.post(mine)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert (await served.post(mine, Authorization="Bearer 0123456789abcdeX")).status_code == 401
    assert (await served.post(mine, Authorization="Bearer 0123456789abcdef")).status_code == 200
    assert (await served.post(mine, Authorization="Bearer fedcba9876543210")).status_code == 200
    assert served.rows("tenant_id") == [("acme",), ("globex",)]
    await asyncio.to_thread(served.intake.stop)


def test_invalid_tokens_are_rejected_without_showing_them():
    with pytest.raises(ValueError, match="token 2 is not") as error:
        parse_tokens("acme=0123456789abcdef\nshort=secret")
    assert "secret" not in str(error.value)
    assert parse_tokens("# a comment\n\nacme=0123456789abcdef\n") == {"0123456789abcdef": "acme"}


# --- when ClickHouse cannot --------------------------------------------------------------------------------------------


async def test_while_clickhouse_is_away_senders_keep_their_rows(served: Served, monkeypatch, caplog):
    assert (await served.post(body(foreign()))).status_code == 200
    with monkeypatch.context() as broken:

        def away(*_: Any, **__: Any) -> None:
            raise DatabaseError("cannot reach ClickHouse")

        broken.setattr(writer, "insert", away)
        broken.setattr(migrations, "connect_and_migrate", away)
        for _ in range(3):
            answer = await served.post(body(foreign(span_id="2" * 16)))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert (await served.client.get("http://gateway/readyz")).status_code == 503
    assert sum("keep their rows" in record.message for record in caplog.records) == 1
    async with asyncio.timeout(20):
        while (await served.post(body(foreign(span_id="2" * 16)))).status_code != 200:  # noqa: ASYNC110 - a thread is waited for
            await asyncio.sleep(0.05)
    assert len(served.rows()) == 2
    assert (await served.client.get("http://gateway/readyz")).status_code == 200
    assert (await served.client.get("http://gateway/healthz")).text == "ok\n"


async def test_a_refused_row_is_a_partial_success_and_a_dead_letter(served: Served, monkeypatch, own_state: Path):
    insert = writer.insert

    def picky(client: Any, target: Target, rows: Any, edition: int = 0) -> None:
        if any(row[3] == "2" * 16 for row in rows):
            raise PoisonError("no such thing")
        insert(client, target, rows, edition)

    monkeypatch.setattr(writer, "insert", picky)
    spans = [foreign(span_id=f"{n:016x}") for n in range(5)] + [foreign(span_id="2" * 16)]
    answer = await served.post(body(*spans))
    assert answer.json() == {"partialSuccess": {"rejectedSpans": "1", "errorMessage": "no such thing"}}
    assert len(served.rows()) == 5
    (letter,) = dead_letters.list_entries(own_state / "spool")
    [kept] = rows(letter.line)  # as it would have been: priced, and ours to read
    assert (kept[3], kept[writer.COLUMN_NAMES.index("cost_usd")]) == ("2" * 16, cost(input=1000, output=100))
    binary = ExportTraceServiceResponse.FromString(
        (await served.post(protobuf(spans[-1]), "application/x-protobuf")).content
    )
    assert binary.partial_success.rejected_spans == 1


async def test_beyond_its_memory_requests_are_sent_away(target: Target, own_state: Path, monkeypatch):
    served = Served(target, own_state, limits=Limits(request_bytes=4 << 20, waiting_bytes=4500))
    insert, ready = writer.insert, asyncio.Event()
    loop = asyncio.get_running_loop()
    held = __import__("threading").Event()

    def slow(*arguments: Any) -> None:
        loop.call_soon_threadsafe(ready.set)
        held.wait(20)
        insert(*arguments)

    monkeypatch.setattr(writer, "insert", slow)
    first = asyncio.create_task(served.post(body(*(foreign(span_id=f"{n:016x}") for n in range(3)))))
    await ready.wait()
    more = await served.post(body(*(foreign(span_id=f"{n:016x}") for n in range(4, 8))))
    assert (more.status_code, more.headers["retry-after"]) == (429, "5")
    held.set()
    assert (await first).status_code == 200
    assert served.intake.waiting_bytes == 0
    assert (await served.post(body(foreign(span_id="f" * 16)))).status_code == 200
    await asyncio.to_thread(served.intake.stop)


async def test_metrics_count_spans_requests_and_commits(served: Served):
    await served.post(body(foreign(), foreign(span_id="2" * 16, gen_ai__operation__name="invoke_agent")))
    await served.post(b"{")
    metrics = (await served.client.get("http://gateway/metrics")).text
    for line in (
        'spanledger_gateway_spans_total{state="committed"} 1.0', 'spanledger_gateway_spans_total{state="not_a_call"} 1.0',
        'spanledger_gateway_requests_total{status="200"} 1.0', 'spanledger_gateway_requests_total{status="400"} 1.0',
        "spanledger_gateway_commits_total 1.0", "spanledger_gateway_waiting_bytes 0.0",
    ):  # fmt: skip
        assert line in metrics.splitlines()


# --- the command -----------------------------------------------------------------------------------------------------------


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def started(
    target: Target, *options: object, trusting: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, ready; its process and address."""
    port = free_port()
    while "--workers" in options and not _is_free(port + 1):
        port = free_port()
    environment = {**os.environ, "SPANLEDGER_DSN": target.dsn, "SPANLEDGER_GATEWAY_TOKENS": "*=0123456789abcdef"}
    process = subprocess.Popen(
        [Path(sys.executable).with_name("spanledger"), "gateway", "--port", str(port), *map(str, options)],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    url = f"http{'s' if trusting else ''}://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", verify=trust(trusting)).status_code == 200:
                break
        except httpx.HTTPError:
            time.sleep(0.1)
    try:
        yield process, url
    finally:
        process.kill()
        process.communicate()


def trust(certificate: Path | None) -> Any:
    return ssl.create_default_context(cafile=certificate) if certificate else True


@pytest.fixture
def running(target: Target) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with started(target) as gateway:
        yield gateway


def test_the_gateway_serves_tls(target: Target, tmp_path: Path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", "/CN=gateway",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key], check=True, capture_output=True)  # fmt: skip
    with started(target, "--tls-certificate", certificate, "--tls-key", key, trusting=certificate) as (_, url):
        headers = {"Content-Type": "application/json", "Authorization": "Bearer 0123456789abcdef"}
        answer = httpx.post(f"{url}/v1/traces", content=body(foreign()), headers=headers, verify=trust(certificate))
        assert answer.status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"{url.replace('https', 'http')}/v1/traces", content=body(foreign()), headers=headers)


def test_sigterm_commits_pending_spans(running, target: Target):
    process, url = running
    answer = httpx.post(f"{url}/v1/traces", content=body(foreign()), headers={
        "Content-Type": "application/json", "Authorization": "Bearer 0123456789abcdef",
    })  # fmt: skip
    assert answer.status_code == 200, answer.text
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGTERM)
    assert "0123456789abcdef" not in errors
    with open_client(target) as client:
        assert client.query("SELECT count() FROM spanledger.llm_calls").result_rows == [(1,)]


HEADERS: Final = {"Content-Type": "application/json", "Authorization": "Bearer 0123456789abcdef"}


def is_ready(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/readyz").status_code == 200
    return False


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.services
def test_workers_have_a_port_each_and_are_started_again(migrated_front: str):
    where = resolve_target(migrated_front)
    with started(where, "--workers", 2) as (process, url):
        first = int(url.rpartition(":")[2])
        urls = [url, f"http://127.0.0.1:{first + 1}"]
        for each in urls:
            wait_for(lambda each=each: is_ready(each))
        for number, each in enumerate(urls):
            answer = httpx.post(
                f"{each}/v1/traces", content=body(foreign(span_id=f"{number + 1:016x}")), headers=HEADERS
            )
            assert answer.status_code == 200, answer.text
        workers = [
            int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]  # fmt: skip
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        wait_for(lambda: not is_ready(urls[1]))
        wait_for(lambda: is_ready(urls[1]))
        assert is_ready(urls[0])
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "ended with -9; it is started again" in errors
        assert not any(is_ready(each) for each in urls)
    with open_client(where) as client:
        assert client.query("SELECT count() FROM llm.llm_calls").result_rows == [(2,)]


@pytest.mark.services
def test_workers_end_with_a_port_that_is_taken_and_with_their_parent(migrated_front: str):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = ["gateway", "--workers", "2", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(
            [Path(sys.executable).with_name("spanledger"), *words], env={**os.environ, "SPANLEDGER_DSN": migrated_front},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "worker 0 cannot serve" in done.stderr
    with started(resolve_target(migrated_front), "--workers", 2) as (process, url):
        wait_for(lambda: is_ready(url))
        process.kill()
        process.wait()
        wait_for(lambda: not is_ready(url))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "is not a loopback address"),
        (["--workers", "2"], "an embedded ledger is open in one process"),
        (["--tls-key", __file__], "go together"),
        (["--tokens-file", __file__], "tokens cannot be read"),
    ],
)
def test_an_unsafe_configuration_is_refused(arguments: list[str], message: str):
    result = CliRunner().invoke(main, ["gateway", *arguments])
    assert result.exit_code != 0
    assert message in result.output


def test_an_unpacked_body_is_never_longer_than_the_limit():
    with pytest.raises(request_body.RefusedError):
        request_body.decompressed(gzip.compress(b"x" * 1001), "gzip", 1000)
    assert request_body.decompressed(gzip.compress(b"x" * 1000), "gzip", 1000) == b"x" * 1000
    for pack, name in ((gzip.compress, "gzip"), (zstd.compress, "zstd")):
        assert request_body.decompressed(pack(b"one") + pack(b"two"), name, 1000) == b"onetwo", "every member counts"


def test_a_request_with_too_many_lines_of_results_is_refused():
    lines = json.dumps([{"i": str(number), "u": {"input": 1}} for number in range(1000)])
    attribute = {"key": "spanledger.result.lines", "value": {"stringValue": lines}}
    spans = [{"attributes": [attribute]}] * (request_body.MAX_RESULT_LINES // 1000 + 1)
    content = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()
    with pytest.raises(request_body.RefusedError, match="lines of results"):
        request_body.spans(content, "application/json")


def test_a_request_with_too_many_spans_is_refused():
    content = (
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b",".join([b"{}"] * (request_body.MAX_SPANS + 1)) + b"]}]}]}"
    )
    with pytest.raises(request_body.RefusedError, match="smaller batches"):
        request_body.spans(content, "application/json")
