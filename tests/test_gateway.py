"""The gateway: what it takes, what it answers, which spans it prices, and that it commits before it says so."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from backports import zstd
from click.testing import CliRunner
from loopback_provider import Provider
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from conftest import Recorded
from empty_ledger import empty_ledger
from foreign_spans import CONVENTIONS, NOW, body, cost, foreign
from spanledger.semconv import attributes as a
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert as writer
from spanledger_clickhouse.database.connection import DatabaseError, Target, open_client
from spanledger_clickhouse.database.insert import PoisonError
from spanledger_clickhouse.gateway import dedup, request_body
from spanledger_clickhouse.gateway.dedup import Batch, SpanDeduplicator
from spanledger_clickhouse.gateway.group_commit import GroupCommitWriter
from spanledger_clickhouse.gateway.server import Gateway, Limits, parse_tokens
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.rows.otlp import Span
from spanledger_clickhouse.rows.rows import rows
from spanledger_clickhouse.ship import dead_letters

DEFAULTS = Limits()
URL = "http://gateway/v1/traces"


def protobuf(*spans: Span) -> bytes:
    from google.protobuf.json_format import ParseDict

    document = json.loads(body(*spans))
    for part in document["resourceSpans"]:
        for span in part["scopeSpans"][0]["spans"]:  # protobuf's own JSON has ids in base64
            for name in ("traceId", "spanId", "parentSpanId"):
                span[name] = __import__("base64").b64encode(bytes.fromhex(span[name])).decode()
    return ParseDict(document, ExportTraceServiceRequest()).SerializeToString()


@pytest.fixture
def where(tmp_path: Path) -> Target:
    return empty_ledger(tmp_path / "ledger")


class Served:
    """A gateway over embedded ClickHouse, spoken to in process."""

    def __init__(
        self, where: Target, spool: Path, known: dict[str, str] | None = None, limits: Limits = DEFAULTS
    ) -> None:
        self.where = where
        self.intake = GroupCommitWriter(where, spool, limits.waiting_bytes, refresh_rollups=False)
        self.gateway = Gateway(self.intake, known or {}, limits)
        self.intake.start()
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.gateway.app()))

    async def post(self, content: bytes, kind: str = "application/json", **headers: str) -> httpx.Response:
        return await self.client.post(URL, content=content, headers={"Content-Type": kind, **headers})

    def rows(self, columns: str = "span_id, cost_usd") -> list[tuple[Any, ...]]:
        with open_client(self.where) as client:
            return client.query(f"SELECT {columns} FROM spanledger.llm_calls FINAL ORDER BY span_id").result_rows


@pytest.fixture
async def served(where: Target, own_state: Path) -> AsyncIterator[Served]:
    found = Served(where, own_state / "spool")
    yield found
    await found.client.aclose()
    await asyncio.to_thread(found.intake.stop)


# --- what it takes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["", "gzip", "zstd", "deflate"])
@pytest.mark.parametrize("kind", ["application/json", "application/x-protobuf"])
async def test_spans_in_either_form_are_rows_when_it_answers(served: Served, kind: str, encoding: str):
    content = body(foreign()) if kind.endswith("json") else protobuf(foreign())
    pack = {"": bytes, "gzip": gzip.compress, "zstd": zstd.compress, "deflate": zlib.compress}[encoding]
    answer = await served.post(pack(content), kind, **({"Content-Encoding": encoding} if encoding else {}))
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert served.rows() == [("1" * 16, cost(input=1000, output=100))]


async def test_what_a_process_of_ours_spooled_is_the_same_row(served: Served, ledger: Recorded, provider: Provider):
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


async def test_text_that_is_no_utf_8_does_not_cost_the_batch(served: Served):
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
async def test_what_is_no_request_is_refused_for_good(where: Target, own_state: Path, content, kind, encoding, status):
    served = Served(where, own_state, limits=Limits(request_bytes=4 << 20))
    answer = await served.post(content, kind, **({"Content-Encoding": encoding} if encoding else {}))
    assert answer.status_code == status
    assert served.intake.waiting_bytes == 0
    await asyncio.to_thread(served.intake.stop)


async def test_a_bearer_token_names_the_tenant_whatever_the_span_says(where: Target, own_state: Path):
    served = Served(where, own_state, parse_tokens("acme=0123456789abcdef, *=fedcba9876543210"))
    mine = body(foreign(spanledger__tenant__id="globex"))
    refused = await served.post(mine)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert (await served.post(mine, Authorization="Bearer 0123456789abcdeX")).status_code == 401
    assert (await served.post(mine, Authorization="Bearer 0123456789abcdef")).status_code == 200
    assert (await served.post(mine, Authorization="Bearer fedcba9876543210")).status_code == 200
    assert served.rows("tenant_id") == [("acme",), ("globex",)]
    await asyncio.to_thread(served.intake.stop)


def test_tokens_that_are_none_are_said_without_showing_them():
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
        for _ in range(3):
            answer = await served.post(body(foreign(span_id="2" * 16)))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert (await served.client.get("http://gateway/readyz")).status_code == 503
    assert sum("keep their rows" in record.message for record in caplog.records) == 1
    assert (await served.post(body(foreign(span_id="2" * 16)))).status_code == 200
    assert len(served.rows()) == 2
    assert (await served.client.get("http://gateway/readyz")).status_code == 200
    assert (await served.client.get("http://gateway/healthz")).text == "ok\n"


async def test_a_refused_row_is_a_partial_success_and_a_dead_letter(served: Served, monkeypatch, own_state: Path):
    insert = writer.insert

    def picky(client: Any, where: Target, rows: Any, edition: int = 0) -> None:
        if any(row[3] == "2" * 16 for row in rows):
            raise PoisonError("no such thing")
        insert(client, where, rows, edition)

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


async def test_beyond_its_memory_requests_are_sent_away(where: Target, own_state: Path, monkeypatch):
    served = Served(where, own_state, limits=Limits(request_bytes=4 << 20, waiting_bytes=4500))
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
    told = (await served.client.get("http://gateway/metrics")).text
    for line in (
        'spanledger_gateway_spans_total{state="committed"} 1.0', 'spanledger_gateway_spans_total{state="not_a_call"} 1.0',
        'spanledger_gateway_requests_total{status="200"} 1.0', 'spanledger_gateway_requests_total{status="400"} 1.0',
        "spanledger_gateway_commits_total 1.0", "spanledger_gateway_waiting_bytes 0.0",
    ):  # fmt: skip
        assert line in told.splitlines()


# --- what is priced --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONVENTIONS)
def test_calls_of_other_instrumentors_are_priced_each_as_it_counts(name: str):
    span, expected = CONVENTIONS[name]
    (entry,) = SpanDeduplicator().classify([Batch("", [span])]).entries
    made = dict(zip(writer.COLUMN_NAMES, entry.contents.rows[0], strict=True))
    assert (made["cost_usd"], made["price_status"], made["source"]) == (expected, "priced", "otlp")
    assert "SECRET" not in repr(entry)


def ids(*spans: Span, sorter: SpanDeduplicator | None = None) -> tuple[list[str], dict[str, int]]:
    sorter = sorter or SpanDeduplicator()
    found = sorter.classify([Batch("", spans)])
    sorter.remember_committed(found.entries)
    return sorted(entry.span.span_id for entry in found.entries), dict(found.dropped)


def test_of_calls_that_wrap_each_other_the_one_nearest_the_wire_counts():
    outer = foreign("pydantic-ai", "1" * 16, **{"gen_ai.response.id": None})
    between = Span("app", {}, {}, "a" * 32, "2" * 16, "1" * 16, "retry", NOW, NOW, False)
    inner = foreign("opentelemetry.instrumentation.openai.v1", "3" * 16, parent="2" * 16)
    assert ids(outer, between, inner) == (["3" * 16], {"not_a_call": 1, "wrapper": 1})
    sorter = SpanDeduplicator()  # the inner ones end first, and may come in a batch before
    assert ids(between, inner, sorter=sorter)[0] == ["3" * 16]
    assert ids(outer, sorter=sorter) == ([], {"wrapper": 1})


def test_a_response_is_one_row_whoever_tells_of_it():
    ours = foreign(
        "spanledger.openai",
        "1" * 16,
        **{"gen_ai.response.id": "chatcmpl-0123456789", a.PRICE_STATUS: "priced", a.COST_TOTAL: 5},
    )
    theirs = foreign("logfire.openai", "2" * 16, **{"gen_ai.response.id": "chatcmpl-0123456789"})
    again = foreign("openlit.otel.tracing", "3" * 16, **{"gen_ai.response.id": "chatcmpl-0123456789"})
    assert ids(theirs, again, ours) == (["1" * 16], {"same_response": 2})
    sorter = SpanDeduplicator(
        lambda _: {("", "openai", "chatcmpl-0123456789"): ("b" * 32, "9" * 16)}
    )  # the ledger has it
    assert ids(theirs, sorter=sorter) == ([], {"same_response": 1})


def test_a_tenant_cannot_hide_another_tenants_calls():
    known = {("mallory", "openai", "chatcmpl-0123456789"): ("b" * 32, "9" * 16)}
    sorter = SpanDeduplicator(lambda _: known)
    for tenant, span in (("mallory", "1"), ("acme", "2")):
        call = foreign(span_id=span * 16, **{"gen_ai.response.id": "chatcmpl-0123456789"})
        found = sorter.classify([Batch(tenant, [call._replace(trace_id=span * 32)])])
        sorter.remember_committed(found.entries)
        assert len(found.entries) == (tenant == "acme")


def test_servers_of_ones_own_that_number_their_answers_are_not_taken_for_each_other():
    spans = [foreign(span_id=f"{n:016x}", **{"gen_ai.response.id": "chatcmpl-7"}) for n in range(3)]
    assert len(ids(*spans)[0]) == 3


def test_what_was_not_committed_hides_nothing():
    sorter = SpanDeduplicator()
    inner = foreign("openlit.otel.tracing", "3" * 16, parent="1" * 16)
    outer = foreign("pydantic-ai", "1" * 16)
    assert len(sorter.classify([Batch("", [inner])]).entries) == 1  # and then the insert failed
    assert len(sorter.classify([Batch("", [outer])]).entries) == 1
    assert ids(inner, sorter=sorter)[0] == ["3" * 16]
    assert ids(outer, sorter=sorter) == ([], {"wrapper": 1})


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(dedup, "REMEMBERED", 100)
    sorter = SpanDeduplicator()
    for turn in range(30):
        spans = [foreign(span_id=f"{n:016x}")._replace(trace_id=f"{turn * 50 + n:032x}") for n in range(50)]
        found = sorter.classify([Batch("", [*spans, foreign(span_id="x" * 100_000)])])
        sorter.remember_committed(found.entries)
    assert sorter._spans <= 100
    assert len(sorter._wrappers) <= len(sorter._parents) <= 100


HOSTILE = [2**62, 10**400, -1, "9" * 500, float("inf"), "\ud800", [], {}, True, None]


@pytest.mark.parametrize("scope", ["spanledger.openai", "openlit.otel.tracing"])
def test_no_value_of_an_attribute_stands_in_the_way_of_others(scope: str):
    names = [value for key, value in vars(a).items() if key.isupper() and isinstance(value, str)]
    bad = [
        foreign(scope, f"{n:016x}", **{**dict.fromkeys(names, value), a.OPERATION: "chat", f"{a.LABEL_PREFIX}\ud800": "x"})._replace(end=2**63 - 1)
        for n, value in enumerate(HOSTILE)
    ]  # fmt: skip
    found = SpanDeduplicator().classify([Batch("", [*bad, foreign(scope, "f" * 16)])])
    assert not found.unreadable
    assert len(found.entries) == len(HOSTILE) + 1
    for value in (str(10**400), "1e999", 10**400):
        document = {"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": [
            {"key": "x", "value": {"intValue": value}}, {"key": "y", "value": {"doubleValue": value}},
        ]}]}]}]}  # fmt: skip
        assert len(list(otlp.spans_from_json(document))) == 1


def test_agents_tools_and_streams_told_twice_are_no_calls():
    agent = foreign("pydantic-ai", gen_ai__operation__name="invoke_agent")
    chain = Span("openinference.instrumentation.langchain", {}, {"openinference.span.kind": "CHAIN", "llm.token_count.prompt": 5},
                 "a" * 32, "2" * 16, "", "x", NOW, NOW, False)  # fmt: skip
    polled = foreign(gen_ai__operation__name="fetch_response")
    opened = foreign("logfire.openai", **{"gen_ai.usage.input_tokens": None, "gen_ai.usage.output_tokens": None})
    assert ids(agent, chain, polled, opened) == ([], {"not_a_call": 4})


def test_a_call_without_usage_or_price_says_so():
    nothing = foreign(**{"gen_ai.usage.input_tokens": None, "gen_ai.usage.output_tokens": None})
    unknown = foreign(span_id="2" * 16, gen_ai__request__model="no-such-model")
    entries = SpanDeduplicator().classify([Batch("", [nothing, unknown])]).entries
    made = [dict(zip(writer.COLUMN_NAMES, entry.contents.rows[0], strict=True)) for entry in entries]
    assert [(row["cost_usd"], row["price_status"].partition(":")[0]) for row in made] == [(None, "unpriced")] * 2


def test_a_span_comes_back_from_its_line_as_it_was():
    span = foreign(a=True, b=1.5, c=["x", 2], d=-3)
    assert next(otlp.spans_from_json(json.loads(otlp.to_json_line(span)))) == span
    assert next(otlp.spans_from_protobuf(protobuf(span))) == span


# --- the command -----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def started(
    where: Target, *options: object, trusting: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, ready; its process and address."""
    port = free_port()
    environment = {**os.environ, "SPANLEDGER_DSN": where.dsn, "SPANLEDGER_GATEWAY_TOKENS": "*=0123456789abcdef"}
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
def running(where: Target) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with started(where) as found:
        yield found


def test_over_tls_too(where: Target, tmp_path: Path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", "/CN=gateway",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key], check=True, capture_output=True)  # fmt: skip
    with started(where, "--tls-certificate", certificate, "--tls-key", key, trusting=certificate) as (_, url):
        headers = {"Content-Type": "application/json", "Authorization": "Bearer 0123456789abcdef"}
        answer = httpx.post(f"{url}/v1/traces", content=body(foreign()), headers=headers, verify=trust(certificate))
        assert answer.status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"{url.replace('https', 'http')}/v1/traces", content=body(foreign()), headers=headers)


def test_on_sigterm_it_commits_what_it_has_and_ends(running, where: Target):
    process, url = running
    answer = httpx.post(f"{url}/v1/traces", content=body(foreign()), headers={
        "Content-Type": "application/json", "Authorization": "Bearer 0123456789abcdef",
    })  # fmt: skip
    assert answer.status_code == 200, answer.text
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGTERM)
    assert "0123456789abcdef" not in said
    with open_client(where) as client:
        assert client.query("SELECT count() FROM spanledger.llm_calls").result_rows == [(1,)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "is not a loopback address"),
        (["--tls-key", __file__], "go together"),
        (["--tokens-file", __file__], "tokens cannot be read"),
    ],
)
def test_a_set_up_that_would_not_be_safe_is_refused(arguments: list[str], message: str):
    found = CliRunner().invoke(main, ["gateway", *arguments])
    assert found.exit_code != 0
    assert message in found.output


def test_an_unpacked_body_is_never_longer_than_the_limit():
    with pytest.raises(request_body.RefusedError):
        request_body.decompressed(gzip.compress(b"x" * 1001), "gzip", 1000)
    assert request_body.decompressed(gzip.compress(b"x" * 1000), "gzip", 1000) == b"x" * 1000
    for pack, name in ((gzip.compress, "gzip"), (zstd.compress, "zstd")):
        assert request_body.decompressed(pack(b"one") + pack(b"two"), name, 1000) == b"onetwo", "every member counts"


def test_a_request_with_too_many_spans_is_refused():
    content = (
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + b",".join([b"{}"] * (request_body.MAX_SPANS + 1)) + b"]}]}]}"
    )
    with pytest.raises(request_body.RefusedError, match="smaller batches"):
        request_body.spans(content, "application/json")
