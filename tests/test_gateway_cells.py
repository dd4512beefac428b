"""One sender's hostile or broken requests cost the others nothing: queues, memory, connections, times and prices."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from empty_ledger import empty_ledger
from foreign_spans import NOW, body, cost, field, foreign, in_a_span, protobuf
from spanledger.semconv import attributes as a
from spanledger_clickhouse.database import insert, migrations
from spanledger_clickhouse.database.connection import Target, open_client
from spanledger_clickhouse.database.insert import SuspectError
from spanledger_clickhouse.gateway import group_commit, request_body
from spanledger_clickhouse.gateway.connections import request_protocol
from spanledger_clickhouse.gateway.dedup import Batch, SpanDeduplicator
from spanledger_clickhouse.gateway.group_commit import GroupCommitWriter, QueueFullError
from spanledger_clickhouse.gateway.request_body import JSON, PROTOBUF, RefusedError
from spanledger_clickhouse.gateway.server import Gateway, Limits, parse_tokens
from spanledger_clickhouse.rows import otlp
from spanledger_clickhouse.rows import protobuf as protobuf_reader
from spanledger_clickhouse.rows.rows import COLUMNS

GOOD, BAD = "good-token-0123456789", "evil-token-0123456789"
MEGABYTE = 1 << 20
DAY = 86400 * 10**9


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return empty_ledger(tmp_path / "ledger")


class Served:
    """A gateway for two tenants, spoken to in process."""

    def __init__(self, target: Target, spool: Path, limits: Limits) -> None:
        self.target = target
        self.writer = GroupCommitWriter(target, spool, limits.waiting_bytes, refresh_rollups=False)
        self.gateway = Gateway(self.writer, parse_tokens(f"good={GOOD},bad={BAD}"), limits)
        self.writer.start()
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.gateway.app()), base_url="http://gateway")

    async def post(self, token: str, content: Any, kind: str = JSON) -> httpx.Response:
        headers = {"Content-Type": kind, "Authorization": f"Bearer {token}"}
        return await self.client.post("/v1/traces", content=content, headers=headers)

    def rows(self, columns: str = "tenant_id") -> list[tuple[Any, ...]]:
        with open_client(self.target) as client:
            return client.query(f"SELECT {columns} FROM spanledger.llm_calls FINAL ORDER BY span_id").result_rows


@pytest.fixture
async def served(target: Target, own_state: Path) -> AsyncIterator[Served]:
    served = Served(target, own_state / "spool", Limits(request_bytes=4 * MEGABYTE, waiting_bytes=8 * MEGABYTE))
    yield served
    await served.client.aclose()
    await asyncio.to_thread(served.writer.stop)


# --- queues and shares ---------------------------------------------------------------------------------------------------


async def test_a_failing_sender_does_not_delay_others(served: Served, monkeypatch):
    """The insert of one tenant fails with an error that nothing explains, and takes its time."""
    real = insert.insert

    def poisoned(client: Any, target: Target, rows: Any, *rest: Any) -> None:
        if any(row[list(COLUMNS).index("tenant_id")] == "bad" for row in rows):
            time.sleep(0.2)
            raise SuspectError("a code that nobody knows")
        real(client, target, rows, *rest)

    monkeypatch.setattr(insert, "insert", poisoned)
    bad = [asyncio.create_task(served.post(BAD, body(foreign(span_id=f"{n:016x}")))) for n in range(20)]
    await asyncio.sleep(0.1)
    good = [await served.post(GOOD, body(foreign(span_id=f"{n:016x}"))) for n in range(100, 110)]
    assert {answer.status_code for answer in good} == {200}
    answers = await asyncio.gather(*bad)
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["retry-after"] for answer in answers} == {"5"}
    assert (await served.post(BAD, body(foreign()))).status_code == 503, "it rests, and is turned away at once"
    assert (await served.client.get("/readyz")).status_code == 200, "the database is not at fault"
    assert served.rows() == [("good",)] * 10


async def test_a_refused_request_costs_its_sender_ten_times_its_time(served: Served, monkeypatch):
    def slow(*_: object) -> None:
        time.sleep(0.2)
        raise RefusedError(413, "too much")

    with monkeypatch.context() as patched:
        patched.setattr("spanledger_clickhouse.gateway.server.spans", slow)
        assert (await served.post(BAD, body(foreign()))).status_code == 413
    answer = await served.post(BAD, body(foreign()))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert (await served.post(GOOD, body(foreign()))).status_code == 200


async def test_an_error_body_names_no_host(served: Served, monkeypatch):
    def broken(*_: Any) -> None:
        raise SuspectError("inserting into spanledger.llm_calls of clickhouse://10.1.2.3:8123 failed")

    monkeypatch.setattr(insert, "insert", broken)
    answer = await served.post(GOOD, body(foreign()))
    assert answer.status_code == 503
    assert answer.json() == {"message": "ClickHouse does not take these spans now"}


def test_a_sender_alone_may_use_all_bytes_and_several_have_a_share_each(target: Target, tmp_path: Path):
    writer = GroupCommitWriter(target, tmp_path, 1000, refresh_rollups=False)
    writer.reserve(1000, "a")
    with pytest.raises(QueueFullError):
        writer.reserve(1, "a")
    writer.reserve(250, "b")
    with pytest.raises(QueueFullError):
        writer.reserve(1, "b")
    writer.release(1000, "a")
    writer.reserve(500, "b")
    writer.reserve(250, "a")
    assert writer.waiting_bytes == 1000


async def test_bodies_that_never_end_fill_only_the_share_of_their_sender(served: Served):
    held = asyncio.Event()

    async def unfinished() -> AsyncIterator[bytes]:
        yield b" " * (MEGABYTE - 10)
        await held.wait()
        yield b" "

    slow = [asyncio.create_task(served.post(BAD, unfinished())) for _ in range(16)]
    await asyncio.sleep(0.3)
    good = await served.post(GOOD, body(foreign()))
    held.set()
    answers = await asyncio.gather(*slow)
    assert good.status_code == 200
    assert {400, 429} <= {answer.status_code for answer in answers} <= {400, 429, 503}


async def test_a_body_that_takes_too_long_is_given_up(target: Target, own_state: Path):
    served = Served(target, own_state / "spool", Limits(body_seconds=0.2))

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(10)

    answer = await served.post(GOOD, slow())
    assert (answer.status_code, answer.headers["connection"], answer.headers["retry-after"]) == (503, "close", "5")
    assert served.writer.waiting_bytes == 0
    await asyncio.to_thread(served.writer.stop)


def test_senders_take_turns(target: Target, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(group_commit, "GROUP_SPANS", 1)
    writer = GroupCommitWriter(target, tmp_path, 1 << 20, refresh_rollups=False)
    for number in range(3):
        writer.submit([foreign(span_id=f"{number:016x}")], "", 0, "a")
    writer.submit([foreign(span_id="f" * 16)], "", 0, "b")
    order = []
    for _ in range(4):
        cell, _ = writer._next_group(True)
        assert cell is not None
        order += [name for name, known in writer._cells.items() if known is cell]
        cell.is_committing = False
    assert order == ["a", "b", "a", "a"]


def test_the_number_of_cells_and_their_memory_are_bounded(target: Target, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(group_commit, "MAX_CELLS", 10)
    writer = GroupCommitWriter(target, tmp_path, 1 << 20, refresh_rollups=False)
    for number in range(50):
        writer.reserve(1, str(number))
        if number:
            writer.release(1, str(number))
    assert len(writer._cells) <= 11
    assert writer.waiting_bytes == 1, "a sender with bytes waiting is not forgotten"


# --- decoding ------------------------------------------------------------------------------------------------------------


NOTHING = field(9, b"")
BOMBS = {
    "empty attributes of one span": in_a_span(NOTHING * (8 * MEGABYTE)),
    "an array of nothing": in_a_span(field(9, field(2, field(5, field(1, b"") * (8 * MEGABYTE))))),
    "empty events": in_a_span(field(11, b"") * (8 * MEGABYTE)),
    "empty attributes of the resource": field(1, field(1, field(1, b"") * (8 * MEGABYTE))),
    "empty spans": field(1, field(2, field(2, b"") * (8 * MEGABYTE))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_of_empty_messages_is_refused_before_it_is_memory(name: str, monkeypatch):
    monkeypatch.setattr(protobuf_reader, "MAX_REQUEST_FIELDS", 200_000)  # tracemalloc makes it ten times slower
    content = BOMBS[name]
    tracemalloc.start()
    with pytest.raises(RefusedError) as refusal:
        request_body.spans(content, PROTOBUF)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refusal.value.status == 413
    assert peak < 2.5 * len(content) + 100 * MEGABYTE


@pytest.mark.parametrize("content", [b"[" * (4 * MEGABYTE), b'{"resourceSpans":[' + b"{}," * (2 * MEGABYTE) + b"{}]}"])
def test_a_bomb_of_json_values_is_refused_before_it_is_memory(content: bytes):
    with pytest.raises(RefusedError) as refusal:
        request_body.spans(content, JSON)
    assert refusal.value.status == 413


def test_many_attributes_over_all_spans_are_refused(monkeypatch):
    monkeypatch.setattr(request_body, "MAX_ATTRIBUTES", 100)
    spans = [foreign(span_id=f"{n:016x}") for n in range(50)]
    for content, kind in ((protobuf(*spans), PROTOBUF), (body(*spans), JSON)):
        with pytest.raises(RefusedError, match="more than 100 attributes"):
            request_body.spans(content, kind)


def test_a_large_prompt_is_no_bomb():
    span = foreign(gen_ai__input__messages="x" * (3 * MEGABYTE))
    assert request_body.spans(protobuf(span), PROTOBUF) == [span._replace(attributes=dict(span.attributes))]


TEXT = st.text(max_size=5)
VALUES = st.one_of(
    TEXT, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False), st.lists(TEXT, max_size=3)
)


@given(st.lists(st.tuples(st.dictionaries(TEXT, VALUES, max_size=4), TEXT), max_size=4), st.integers(0, 2**32))
def test_a_split_request_is_read_as_protobuf_reads_it(found: list[tuple[dict[str, Any], str]], seed: int):
    request: Any = ExportTraceServiceRequest()
    dice = random.Random(seed)
    for attributes, name in found:
        resource = (
            request.resource_spans.add()
            if dice.random() < 0.5 or not request.resource_spans
            else request.resource_spans[-1]
        )
        scope = resource.scope_spans.add()
        scope.scope.name = name
        span = scope.spans.add(
            name=name, trace_id=b"1" * 16, span_id=b"2" * 8, start_time_unix_nano=dice.randrange(2**64)
        )
        for key, value in attributes.items():
            pair = span.attributes.add(key=key)
            match value:
                case bool():
                    pair.value.bool_value = value
                case int():
                    pair.value.int_value = value
                case float():
                    pair.value.double_value = value
                case str():
                    pair.value.string_value = value
                case _:
                    pair.value.array_value.SetInParent()
                    for part in value:
                        pair.value.array_value.values.add(string_value=part)
    read = list(otlp.spans_from_protobuf(request.SerializeToString()))
    assert [(span.scope, dict(span.attributes), span.name) for span in read] == [
        (name, attributes, name) for attributes, name in found
    ]
    assert [span.start for span in read] == [
        min(span.start_time_unix_nano, 2**63 - 1)
        for r in request.resource_spans
        for s in r.scope_spans
        for span in s.spans
    ]


@given(st.binary(max_size=200))
def test_bytes_that_are_no_request_are_refused_or_empty(content: bytes):
    with contextlib.suppress(RefusedError):
        request_body.spans(content, PROTOBUF)


# --- what a span cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [-30_000, -4500, 2, 50_000])
async def test_a_time_that_cannot_be_right_is_refused_and_kept(served: Served, days: int, own_state: Path):
    start = min(max(0, NOW + days * DAY), 2**63 - 10**10)
    spans = [foreign(span_id="1" * 16, start=start), foreign(span_id="2" * 16)]
    answer = await served.post(GOOD, body(*spans))
    assert answer.status_code == 200
    assert answer.json()["partialSuccess"]["rejectedSpans"] == "1"
    assert "is not within the last 400 days" in answer.json()["partialSuccess"]["errorMessage"]
    assert served.rows("span_id") == [("2" * 16,)]
    dead = "".join(file.read_text() for file in (own_state / "spool").rglob("*") if file.is_file())
    assert "1" * 16 in dead


@pytest.mark.parametrize("scope", ["spanledger.openai", "opentelemetry.util.genai.handler"])
@pytest.mark.parametrize("picousd", [-999 * 10**12, 2**62, True, "5"])
def test_a_cost_that_no_call_has_is_computed_again(picousd: Any, scope: str):
    span = foreign(scope, **{a.COST_TOTAL: picousd, a.PRICE_STATUS: "priced", a.SEQUENCE: 2**62, a.PROCESS_ID: "p"})
    [entry] = SpanDeduplicator().classify([Batch("", [span])]).entries
    row = dict(zip(COLUMNS, entry.contents.rows[0], strict=True))
    assert (row["cost_usd"], row["price_status"]) == (cost(input=1000, output=100), "priced")
    assert (row["sequence"], row["process_id"]) == (None, "")


def test_a_marker_with_an_impossible_number_is_refused():
    def marker(**found: Any) -> list[str]:
        span = foreign(a.MARKER_SCOPE)._replace(attributes={a.MARKER: "loss", **found})
        return [why for _, _, why in SpanDeduplicator().classify([Batch("", [span])]).unreadable]

    assert marker(**{a.LOST_ROWS: 5, a.COST_TOTAL: 5 * 10**15}) == []
    assert marker(**{a.LOST_ROWS: 2**62}) == ["a number in this marker is impossible"]
    assert marker(**{a.COST_TOTAL: -1}) == ["a number in this marker is impossible"]


# --- connections ---------------------------------------------------------------------------------------------------------


@contextmanager
def server(seconds: float) -> Iterator[int]:
    """uvicorn with the gateway's protocol; its port."""
    uvicorn = pytest.importorskip("uvicorn")

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(answer, port=0, http=request_protocol(seconds), lifespan="off", log_level="error")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield running.servers[0].sockets[0].getsockname()[1]
    running.should_exit = True
    thread.join()


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT"])
def test_a_connection_that_sends_no_whole_request_is_closed(sent: bytes):
    with server(0.3) as port, socket.create_connection(("127.0.0.1", port)) as silent:
        silent.sendall(sent)
        silent.settimeout(10)
        while silent.recv(1000):
            pass
        assert httpx.get(f"http://127.0.0.1:{port}/").text == "ok"


def test_more_connections_than_descriptors_do_not_make_it_deaf(target: Target, own_state: Path):
    """1,100 sockets that say nothing, for a gateway that began with 256 descriptors."""
    program = (
        "import resource; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard));"
        "from spanledger_clickhouse.gateway.connections import raise_descriptor_limit as more; more();"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(found.stdout) > 1100


def test_a_compressed_bomb_costs_no_more_than_its_limit():
    """144 KB that stand for 64 MB of empty attributes, below the ratio at which a body is taken for a bomb."""
    noise = random.Random(1).randbytes(100_000)
    content = in_a_span(field(7, noise) + NOTHING * (16 * MEGABYTE))
    packed = zlib.compress(content)
    data = request_body.decompressed(packed, "deflate", 64 * MEGABYTE)
    with pytest.raises(RefusedError, match="more than 50,000 fields"):
        request_body.spans(data, PROTOBUF)


def test_a_body_of_many_compressed_members_is_refused():
    """Each member copies what follows it: a few megabytes of them took minutes."""
    member = gzip.compress(b"")
    assert request_body.decompressed(member * 50, "gzip", MEGABYTE) == b""
    with pytest.raises(RefusedError, match="more than 100 members"):
        request_body.decompressed(member * 100_000, "gzip", MEGABYTE)


def test_a_list_of_nothing_in_many_small_spans_is_refused():
    part = field(1, b"")
    attribute = field(9, field(1, b"k") + field(2, field(5, part * 3900)))
    content = field(1, field(2, field(2, attribute) * 2000))
    with pytest.raises(RefusedError) as refusal:
        request_body.spans(content, PROTOBUF)
    assert refusal.value.status == 413


@pytest.mark.parametrize("content", [bytes.fromhex("0a071205150375726c"), bytes.fromhex("0a0512030d01020304")])
def test_a_field_of_another_wire_type_is_no_message(content: bytes):
    with contextlib.suppress(RefusedError):
        assert request_body.spans(content, PROTOBUF) == []


def test_field_number_zero_is_refused():
    with pytest.raises(RefusedError, match="number 0"):
        request_body.spans(bytes.fromhex("0200"), PROTOBUF)


async def test_a_request_whose_sender_has_left_is_dropped_with_its_bytes(target: Target, own_state: Path, monkeypatch):
    """ClickHouse hangs, and a sender tries again and again."""
    limits = Limits(request_bytes=4 * MEGABYTE, waiting_bytes=8 * MEGABYTE, answer_seconds=0.1)
    served = Served(target, own_state / "spool", limits)
    held = threading.Event()
    monkeypatch.setattr(insert, "insert", lambda *_: held.wait(20) and None)
    for _ in range(5):
        assert (await served.post(GOOD, body(foreign()))).status_code == 503
    assert sum(len(cell.requests) for cell in served.writer._cells.values()) == 0
    held.set()
    await asyncio.to_thread(served.writer.stop)
    assert served.writer.waiting_bytes == 0


async def test_refused_spans_of_a_large_resource_do_not_fill_the_disk(served: Served, own_state: Path):
    """4 MB of resource and 200 spans were 800 MB of dead letters."""
    spans = [foreign("spanledger.x", f"{n:016x}", start=0)._replace(resource={"x": "x" * 20_000}) for n in range(30)]
    answer = await served.post(GOOD, protobuf(*spans), PROTOBUF)
    assert answer.status_code == 200
    dead = sum(file.stat().st_size for file in (own_state / "spool").rglob("*") if file.is_file())
    assert 30 * 1000 < dead < 30 * 4000


async def test_expired_calls_among_others_need_no_bisection(served: Served, monkeypatch):
    with open_client(served.target) as client:
        migrations.set_retention(client, served.target, 30)
    inserts: list[int] = []
    real = insert.insert

    def counting(client: Any, target: Target, rows: Any, *rest: Any) -> None:
        inserts.append(len(rows))
        real(client, target, rows, *rest)

    monkeypatch.setattr(insert, "insert", counting)
    spans = [foreign(span_id=f"{n:016x}", start=NOW - (40 * DAY if n % 2 else 0)) for n in range(1, 61)]
    answer = await served.post(GOOD, body(*spans))
    assert answer.json()["partialSuccess"]["rejectedSpans"] == "30"
    assert "is older than the 30 days" in answer.json()["partialSuccess"]["errorMessage"]
    assert inserts == [30]


async def test_dead_letters_that_cannot_be_written_are_the_trouble_of_their_sender(served: Served, own_state: Path):
    (own_state / "spool").mkdir(parents=True, exist_ok=True)
    (own_state / "spool/dead").write_text("in the way")
    assert (await served.post(BAD, body(foreign(start=0)))).status_code == 503
    assert (await served.client.get("/readyz")).status_code == 200
    assert (await served.post(GOOD, body(foreign()))).status_code == 200


def test_response_ids_are_asked_for_in_parts_that_fit_into_a_parameter():
    ids = ["\N{SNOWMAN}'" * 128 for _ in range(400)]
    chunks = list(group_commit._in_chunks(ids))
    assert [each for chunk in chunks for each in chunk] == ids
    assert max(sum(len(each.encode()) for each in chunk) for chunk in chunks) < 64_000


def test_a_connection_that_reads_no_answer_is_closed():
    with server(0.5) as port:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", port))
            deaf.settimeout(20)
            with contextlib.suppress(OSError):
                for _ in range(100_000):  # answers fill the buffers, until the server no longer reads
                    deaf.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
            with contextlib.suppress(ConnectionError):
                while deaf.recv(100_000):
                    pass
        assert httpx.get(f"http://127.0.0.1:{port}/").text == "ok"
