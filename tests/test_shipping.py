"""Shipping from the spool to ClickHouse: every row once, whatever happens to the shipper or the file."""

from __future__ import annotations

import gzip
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from opentelemetry import metrics
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from canned import Canned
from conftest import RESOURCE, Recorded
from empty_ledger import empty_ledger
from memory_sink import Got, record
from spanledger import bootstrap
from spanledger import metrics as selfmetrics
from spanledger.capture.processor import LedgerProcessor
from spanledger.semconv import attributes as a
from spanledger.spool.otlp_json import Encoder
from spanledger.spool.writer import Spool
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert, migrations
from spanledger_clickhouse.database.connection import DatabaseError, Target, connect, open_client, resolve_target
from spanledger_clickhouse.database.insert import SuspectError
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.exporter import LedgerSpanExporter
from spanledger_clickhouse.rows.rows import COLUMNS, EVENT_COLUMNS, contents, rows
from spanledger_clickhouse.ship import dead_letters, shipper
from spanledger_clickhouse.ship.background_thread import BackgroundShipper
from spanledger_clickhouse.ship.shipper import DrainStats
from spanledger_clickhouse.ship.sinks import ClickHouseSink, OtlpSink, SpoolLine

pytestmark = pytest.mark.services


class Down(Got):
    def send(self, lines: Sequence[SpoolLine]) -> None:
        raise DatabaseError("down")


def test_draining_ships_every_row_and_removes_finished_segments(ledger: Recorded, provider: Provider):
    expected = record(ledger, provider)
    ledger.spool.close()
    got = Got()
    done = shipper.drain(ledger.spool.directory, got)
    assert (got.rows, done.rows, done.segments, done.torn) == (expected, 3, 1, 0)
    assert [file.name for file in ledger.spool.directory.iterdir()] == ["ship.lock"]


def test_an_open_segment_stays_and_is_not_shipped_twice(ledger: Recorded, provider: Provider):
    record(ledger, provider, 2)
    got = Got()
    shipper.drain(ledger.spool.directory, got)
    record(ledger, provider, 1)
    shipper.drain(ledger.spool.directory, got)
    assert len(got.rows) == 3
    assert len(set(map(repr, got.rows))) == 3
    assert list(ledger.spool.directory.glob("*.jsonl")) != []


def test_rows_that_cannot_be_inserted_stay_in_the_spool(ledger: Recorded, provider: Provider):
    record(ledger, provider)
    ledger.spool.close()
    with pytest.raises(DatabaseError):
        shipper.drain(ledger.spool.directory, Down())
    got = Got()
    shipper.drain(ledger.spool.directory, got)
    assert len(got.rows) == 3


def test_a_truncated_or_corrupt_last_record_loses_nothing_before_it(ledger: Recorded, provider: Provider):
    expected = record(ledger, provider)
    ledger.spool.close()
    [file] = ledger.spool.directory.glob("*.jsonl")
    whole = file.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for at in range(last, len(whole)):
        for broken in (whole[:at], whole[:at] + b"\x00" + whole[at + 1 :]):
            file.write_bytes(broken)
            got = Got()
            done = shipper.drain(ledger.spool.directory, got)
            assert got.rows[:2] == expected[:-1], at
            assert len(got.rows) + done.torn <= 3 + (at == last)


def test_a_rejected_row_is_isolated_kept_and_can_be_retried(ledger: Recorded, provider: Provider):
    expected = record(ledger, provider, 40)
    ledger.spool.close()
    poison = repr(expected[17])
    got = Got(lambda row: repr(row) == poison)
    done = shipper.drain(ledger.spool.directory, got)
    assert (len(got.rows), done.dead) == (39, 1)
    assert got.sends < 20
    [letter] = dead_letters.list_entries(ledger.spool.directory)
    assert (letter.reason, rows(letter.line)) == ("it will not", [expected[17]])
    assert dead_letters.requeue(ledger.spool.directory, ledger.spool.directory / "retried.jsonl") == 1
    got.refuses = lambda row: False
    shipper.drain(ledger.spool.directory, got)
    assert sorted(map(repr, got.rows)) == sorted(map(repr, expected))
    assert list(dead_letters.list_entries(ledger.spool.directory)) == []


def test_dead_letters_are_shown_and_retried_by_the_command(monkeypatch, own_state: Path, tmp_path: Path):
    monkeypatch.setenv("SPANLEDGER_DSN", empty_ledger(tmp_path / "chdb").dsn)
    (own_state / "spool").mkdir(parents=True)
    dead_letters.add(own_state / "spool", b'{"resourceSpans": []}\n', "it would not")
    shown = CliRunner().invoke(main, ["ship", "--dead"]).output
    assert "it would not" in shown
    assert "1 rows were refused" in shown
    assert "1 rows go back into the spool" in CliRunner().invoke(main, ["ship", "--dead", "--retry"]).output
    assert list(dead_letters.list_entries(own_state / "spool")) == []


# --- a Collector ---------------------------------------------------------------------------------------------------


def test_a_collector_receives_the_lines_unchanged(ledger: Recorded, provider: Provider):
    expected = record(ledger, provider)
    ledger.spool.close()
    collector = Canned()
    collector.answers["/v1/traces"] = {}
    done = shipper.drain(ledger.spool.directory, OtlpSink(collector.url))
    collector.close()
    [(_, path, body)] = collector.asked
    assert (path, done.rows) == ("/v1/traces", 3)
    assert rows(gzip.decompress(body)) == expected


def test_a_collector_receives_the_configured_headers(ledger: Recorded, provider: Provider, monkeypatch):
    import threading

    got: list[str | None] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            got.append(self.headers["authorization"])
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    record(ledger, provider, 1)
    monkeypatch.setenv("SPANLEDGER_OTLP_HEADERS", "authorization=Bearer%20s3cret, x-scope=a")
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        OtlpSink(f"http://127.0.0.1:{server.server_port}").send(
            [SpoolLine(line, contents(line)) for line in ledger.lines]
        )
    assert got == ["Bearer s3cret"]
    monkeypatch.setenv("SPANLEDGER_OTLP_HEADERS", "x=1,s3cret")
    with pytest.raises(DatabaseError, match=r"^part 2 of SPANLEDGER_OTLP_HEADERS is not of the form name=value$"):
        OtlpSink("http://127.0.0.1:1")


def test_a_response_in_chunks_is_read_whole_and_a_netrc_adds_nothing(
    ledger: Recorded, provider: Provider, monkeypatch, tmp_path: Path
):
    headers: list[str | None] = []

    class Receiver(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            headers.append(self.headers["authorization"])
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for part in (b'{"partial', b'Success": {}}', b""):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))

        def log_message(self, *_):
            pass

    record(ledger, provider, 1)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("SPANLEDGER_OTLP_HEADERS", "authorization=Bearer%20s3cret")
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        sink = OtlpSink(f"http://127.0.0.1:{server.server_port}")
        sink.send([SpoolLine(line, contents(line)) for line in ledger.lines])
    assert headers == ["Bearer s3cret"]


NO_RECEIVER = b"<html>please log in</html>"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (503, DatabaseError),
        (429, DatabaseError),
        (302, DatabaseError),
        (NO_RECEIVER, DatabaseError),
        (400, SuspectError),
        (500, SuspectError),
    ],
)
def test_the_response_of_a_collector_decides_whether_lines_stay(status, error, ledger: Recorded, provider: Provider):
    record(ledger, provider, 1)
    collector = Canned()
    collector.answers["/v1/traces"] = status
    with pytest.raises(DatabaseError) as raised:
        OtlpSink(collector.url).send([SpoolLine(line, contents(line)) for line in ledger.lines])
    collector.close()
    assert type(raised.value) is error


def test_spans_rejected_by_a_collector_are_not_sent_again(ledger: Recorded, provider: Provider, caplog):
    record(ledger, provider, 3)
    ledger.spool.close()
    collector = Canned()
    collector.answers["/v1/traces"] = {"partialSuccess": {"rejectedSpans": "1", "errorMessage": "too old"}}
    shipper.drain(ledger.spool.directory, OtlpSink(collector.url))
    collector.close()
    assert len(collector.asked) == 1
    assert "permanently rejected 1 of 3 spans: too old" in caplog.text


def test_the_shipper_survives_any_exception_of_a_sink(ledger: Recorded, provider: Provider, monkeypatch, caplog):
    record(ledger, provider)
    monkeypatch.setenv("SPANLEDGER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    background = BackgroundShipper(ledger.spool)
    background.start()
    got, sinks = Got(), [Broken()]
    background._sink = sinks[0]
    assert background.flush(5) is False
    background._sink = got
    assert background.flush(5) is True
    background.stop()
    assert len(got.rows) == 3
    assert "shipping failed with RuntimeError" in caplog.text


class Hanging(Got):
    """A destination that takes a connection and does not answer, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answers = 0, threading.Event()

    def send(self, lines):
        self.asked += 1
        if not self.answers.wait(10):
            raise DatabaseError("timed out")
        super().send(lines)


def test_a_destination_that_hangs_is_waited_for_once(ledger: Recorded, provider: Provider, monkeypatch):
    monkeypatch.setattr(BackgroundShipper, "HANG_SECONDS", 1.0)
    monkeypatch.setenv("SPANLEDGER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    record(ledger, provider)
    background = BackgroundShipper(ledger.spool)
    background.start()
    background._sink = sink = Hanging()
    began = time.monotonic()
    assert background.flush(1.0) is False
    assert 0.9 < time.monotonic() - began < 10
    began = time.monotonic()
    assert [background.flush(30) for _ in range(10)] == [False] * 10
    assert time.monotonic() - began < 1.0
    sink.answers.set()
    end = time.monotonic() + 10
    while not background.flush(5):
        assert time.monotonic() < end
    assert len(sink.rows) == 3
    sink.answers.clear()
    record(ledger, provider, 1)
    assert background.flush(0.5) is False
    began = time.monotonic()
    background.stop(30)
    assert time.monotonic() - began < 10, "the end of a program does not wait for it either"
    sink.answers.set()


def test_the_shippers_own_requests_are_not_spans_of_the_application(ledger: Recorded, provider: Provider):
    background = BackgroundShipper(ledger.spool)
    enabled: list[bool] = []

    class Observing(Got):
        def send(self, lines: Sequence[SpoolLine]) -> None:
            enabled.append(is_instrumentation_enabled())
            super().send(lines)

    record(ledger, provider, 1)
    background._sink = Observing()
    background._thread = threading.Thread(target=background._run, daemon=True)
    background._thread.start()
    assert background.flush(5)
    background.stop()
    assert enabled == [False]


class Broken(Got):
    def send(self, lines: Sequence[SpoolLine]) -> None:
        raise RuntimeError("secret")


def test_an_unescaped_password_is_not_shown():
    with pytest.raises(DatabaseError) as raised:
        resolve_target("clickhouse://user:se/cret@host:8123/llm")
    assert "cret" not in str(raised.value)


def test_an_unreachable_collector_is_logged_without_its_password():
    with pytest.raises(DatabaseError, match=r"cannot reach the Collector at http://me:\*\*\*@127.0.0.1:9/v1/traces"):
        OtlpSink("http://me:s3cret@127.0.0.1:9").send([])
    with pytest.raises(DatabaseError, match=r"is not a valid http\(s\) URL"):
        OtlpSink("grpc://x")


def test_the_exporter_alone_writes_retries_and_ships_within_its_deadline(own_state: Path, monkeypatch):
    collector = Canned()
    collector.answers["/v1/traces"] = [503, {}]
    monkeypatch.setenv("SPANLEDGER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setattr(bootstrap, "is_attached", lambda: False)
    tracing = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    tracing.add_span_processor(BatchSpanProcessor(LedgerSpanExporter(), schedule_delay_millis=60_000))
    for scope in ("spanledger.openai", "somebody.else"):
        tracing.get_tracer(scope).start_span("chat", attributes={a.OPERATION: "chat", a.PROVIDER: "openai"}).end()
    assert tracing.force_flush()
    for _ in range(100):
        if not shipper.waiting_bytes(own_state / "spool"):
            break
        time.sleep(0.1)
    tracing.shutdown()
    collector.close()
    bodies = [gzip.decompress(body) for _, _, body in collector.asked]
    assert len(rows(bodies[-1] if b"chat" in bodies[-1] else bodies[1])) == 1
    assert b"somebody" not in b"".join(bodies)


def test_flush_returns_whether_it_succeeded(ledger: Recorded, provider: Provider, monkeypatch):
    record(ledger, provider)
    collector = Canned()
    collector.answers["/v1/traces"] = [503, {}]
    monkeypatch.setenv("SPANLEDGER_OTLP_ENDPOINT", collector.url)
    background = BackgroundShipper(ledger.spool)
    background.start()
    assert background.flush(5) is False
    assert background.flush(5) is True
    background.stop()
    collector.close()
    assert shipper.waiting_bytes(ledger.spool.directory) == 0
    assert background.shipped.rows == 3


def test_the_ledger_reports_its_own_metrics(ledger: Recorded, provider: Provider, monkeypatch):
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(metrics, "get_meter", meters.get_meter)
    background = BackgroundShipper(ledger.spool)
    selfmetrics.register_spool_metrics(ledger.spool)
    BackgroundShipper.register_metrics(lambda: background)
    record(ledger, provider)
    shipped = DrainStats(rows=2, dead=1, torn=1)
    background.shipped = shipped
    found = reader.get_metrics_data()
    assert found is not None
    [scope] = found.resource_metrics[0].scope_metrics
    values = {metric.name: next(iter(metric.data.data_points)).value for metric in scope.metrics}
    assert values.pop("spanledger.spool.oldest_unshipped") >= 0
    assert values == {
        "spanledger.rows.recorded": 3, "spanledger.rows.spooled": 3, "spanledger.rows.refused": 0,
        "spanledger.rows.shipped": 2, "spanledger.rows.dead": 2,
    }  # fmt: skip
    meters.shutdown()


def test_a_directory_has_one_shipper(tmp_path: Path):
    with (
        shipper.exclusive_shipper(tmp_path),
        pytest.raises(shipper.BusyError),
        shipper.exclusive_shipper(tmp_path),
    ):
        pass


def test_a_spool_that_does_not_exist_is_empty(tmp_path: Path):
    assert shipper.drain(tmp_path / "none", Got()).rows == 0
    assert shipper.waiting_bytes(tmp_path / "none") == 0


def count(client, where: Target) -> int:
    return client.query(f"SELECT count() FROM `{where.database}`.llm_calls FINAL").result_rows[0][0]


def test_a_row_survives_the_round_trip(embedded, ledger: Recorded, provider: Provider):
    client, where = embedded
    [row] = record(ledger, provider, 1)
    insert.insert(client, where, [row])
    found = client.query(f"SELECT {', '.join(COLUMNS)} FROM `{where.database}`.llm_calls FINAL").result_rows
    [back] = found
    expected = dict(zip(COLUMNS, row, strict=True))
    got = dict(zip(COLUMNS, back, strict=True))
    got["start_time"] = got["start_time"].replace(tzinfo=UTC)  # the driver leaves the zone out where it is UTC
    assert got == expected


def test_a_redelivered_batch_is_stored_once(embedded, ledger: Recorded, provider: Provider):
    client, where = embedded
    batch = record(ledger, provider)
    for _ in range(3):
        insert.insert(client, where, [*batch, batch[0]])
    assert client.query(f"SELECT count() FROM `{where.database}`.llm_calls").result_rows[0][0] == 3


def test_rows_redelivered_in_other_batches_are_stored_once(embedded, ledger: Recorded, provider: Provider):
    client, where = embedded
    batch = record(ledger, provider)
    insert.insert(client, where, batch)
    insert.insert(client, where, batch[:2])
    insert.insert(client, where, batch[1:])
    assert count(client, where) == 3


def test_migrating_again_changes_nothing(embedded):
    client, where = embedded
    assert migrations.migrate(client, where) == []
    assert migrations.pending(client, where) == []


def test_a_dropped_object_is_created_again(embedded):
    client, where = embedded
    for what in ("TABLE budgets", "VIEW cost_by_user"):
        kind, name = what.split()
        client.command(f"DROP {kind} `{where.database}`.{name} SYNC")
    assert migrations.pending(client, where) == []
    done = migrations.migrate(client, where, whole=True)
    assert [m.name for m in done] == [
        "schema/041_budgets.sql",
        "schema/048_budgets_enforced.sql",
        "views/cost_by_user.sql",
    ]
    assert migrations.pending(client, where, whole=True) == []
    assert client.query(f"SELECT per FROM `{where.database}`.budgets").result_rows == []


def test_every_view_can_be_queried(embedded, ledger: Recorded, provider: Provider):
    client, where = embedded
    insert.insert(client, where, record(ledger, provider))
    for migration in migrations.migrations(where.database):
        folder, _, name = migration.name.partition("/")
        if folder == "views":
            view, _, kind = name.replace(".sql", "").partition("#")
            window = "(since = '2026-03-01 00:00:00', until = '2026-04-01 00:00:00')"
            given = {"": "", "between": f"_between{window}", "at": "_at(as_of = '2026-03-01 00:00:00')"}[kind]
            client.query(f"SELECT * FROM `{where.database}`.{view}{given}")


def holes(client, where: Target) -> list[tuple]:
    columns = "from_sequence, to_sequence, missing_rows, announced"
    return client.query(f"SELECT {columns} FROM `{where.database}`.ledger_holes ORDER BY from_sequence").result_rows


def test_expired_calls_are_not_gaps(embedded, ledger: Recorded, provider: Provider):
    client, where = embedded
    rows = record(ledger, provider)
    ends = list(EVENT_COLUMNS)
    old = ("expired", "end", datetime(2025, 1, 1, tzinfo=UTC), "app", "", 500, 0, None, None, Decimal(0), None)
    begun = ("cut", "start", datetime(2025, 1, 31, tzinfo=UTC), "app", "", None, 0, None, None, Decimal(0), None)
    cut = {**dict(zip(COLUMNS, rows[0], strict=True)), "process_id": "cut", "sequence": 100, "span_id": "c" * 16}
    insert.insert(client, where, [*rows, tuple(cut.values())])
    client.insert(f"`{where.database}`.ledger_events", [old, begun], column_names=ends)
    assert holes(client, where) == []
    client.command(f"TRUNCATE TABLE `{where.database}`.ledger_events")
    assert holes(client, where) == [(0, 99, 100, False)], "the process announced no loss"


def test_a_missing_row_is_a_gap_announced_or_not(embedded, own_state: Path, provider: Provider):
    client, where = embedded
    encoder = Encoder()
    spool = Spool(own_state / "spool", 1 << 30, lambda found: encoder.marker(RESOURCE, found))
    tracing = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    tracing.add_span_processor(LedgerProcessor(spool))
    tracer = tracing.get_tracer("spanledger.openai")
    for _ in range(10):
        tracer.start_span("chat", attributes={a.OPERATION: "chat"}).end()
    with spool._process.lock:
        spool._process.losses.add(10, 5)
        spool.next_sequence()
    tracer.start_span("chat", attributes={a.OPERATION: "chat"}).end()
    spool.next_sequence()  # a row that was never written, the last one
    spool.close()
    kept = [line for file in sorted((own_state / "spool").glob("*.jsonl")) for line in file.read_bytes().splitlines()]
    lines = [SpoolLine(line, contents(line)) for line in kept]
    without = [line for n, line in enumerate(lines) if n not in (4, 5)]  # rows 3 and 4: line 0 is the start marker
    ClickHouseSink(where, client).send(without)
    assert holes(client, where) == [(3, 4, 2, False), (10, 10, 1, True), (12, 12, 1, False)]
    ClickHouseSink(where, client).send(lines)
    assert holes(client, where) == [(10, 10, 1, True), (12, 12, 1, False)]


def test_a_server_is_migrated_and_written_over_http(front: str, ledger: Recorded, provider: Provider):
    where = resolve_target(front)
    with open_client(where) as client:
        assert migrations.migrate(client, where) != []
        batch = record(ledger, provider)
        insert.insert(client, where, batch)
        insert.insert(client, where, batch)
        assert count(client, where) == 3


def test_the_applications_own_shipper_sends_to_a_server(front: str, ledger: Recorded, provider: Provider, monkeypatch):
    record(ledger, provider)
    monkeypatch.setenv("SPANLEDGER_DSN", front)
    background = BackgroundShipper(ledger.spool)
    background.start()
    assert background.flush(30)
    background.stop()
    assert shipper.waiting_bytes(ledger.spool.directory) == 0
    where = resolve_target(front)
    with open_client(where) as client:
        assert count(client, where) == 3


def test_an_outage_is_one_log_line_and_rows_stay_in_the_spool(
    ledger: Recorded, provider: Provider, caplog, monkeypatch
):
    record(ledger, provider)
    monkeypatch.setenv("SPANLEDGER_DSN", "http://app:s3cret@127.0.0.1:9/llm")
    background = BackgroundShipper(ledger.spool)
    with caplog.at_level(logging.ERROR, "spanledger"):
        background.start()
        assert not background.flush(10)
        background.stop()
    [line] = {record.message for record in caplog.records}
    assert "cannot reach ClickHouse at http://app:***@127.0.0.1:9/llm" in line
    assert "s3cret" not in line
    assert shipper.waiting_bytes(ledger.spool.directory) > 0


@pytest.mark.parametrize(
    "dsn", ["mysql://x", "nonsense", "http://", "chdb-typo:///x", "chdb:", "chdb:///", "chdb:/x", "chdb://?x=1"]
)
def test_the_error_for_an_invalid_dsn_describes_the_format(dsn: str):
    with pytest.raises(DatabaseError, match=r"use clickhouse\[s\]://"):
        resolve_target(dsn)


def test_the_embedded_ledger_serves_one_process(tmp_path: Path):
    where = resolve_target(f"chdb://{tmp_path / 'chdb'}")
    code = f"""
from spanledger_clickhouse.database import connection
connection.WAIT_SECONDS = 1.0
connection.connect(connection.resolve_target({where.dsn!r}))
"""
    with open_client(where):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ)
        )
    assert "is another spanledger command running?" in done.stderr


def test_connecting_does_not_require_an_existing_database(front: str):
    connect(resolve_target(front)).close()
