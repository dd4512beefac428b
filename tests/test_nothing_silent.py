"""What cannot be written, or was deleted, is a gap in the ledger with an amount; a disk that hangs stops no caller."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from empty_ledger import empty_ledger
from spanledger.capture.processor import LedgerProcessor
from spanledger.semconv import attributes as a
from spanledger.spool import journal, segments
from spanledger.spool.otlp_json import Encoder
from spanledger.spool.writer import Spool
from spanledger_clickhouse.database.connection import open_client, resolve_target
from spanledger_clickhouse.database.insert import COLUMN_NAMES, SuspectError
from spanledger_clickhouse.rows.rows import Row, contents
from spanledger_clickhouse.ship import shipper
from spanledger_clickhouse.ship.background_thread import BackgroundShipper
from spanledger_clickhouse.ship.sinks import ClickHouseSink, SpoolLine

RESOURCE = Resource({"service.name": "shop", "host.name": "box"})


def new_spool(directory: Path, deadline_ms: int = 5, max_bytes: int = 1 << 30) -> Spool:
    encoder = Encoder()
    return Spool(directory, max_bytes, lambda found: encoder.marker(RESOURCE, found), deadline_ms=deadline_ms)


class Calls:
    """Calls of one process: a thousand tokens of gpt-5.4-mini each."""

    def __init__(self, spool: Spool) -> None:
        tracing = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
        tracing.add_span_processor(LedgerProcessor(spool))
        self._tracer = tracing.get_tracer("spanledger.openai")
        self.sold = 0
        self.slowest = 0.0

    def make(self, count: int) -> None:
        found = {
            a.OPERATION: "chat",
            a.PROVIDER: "openai",
            a.RESPONSE_MODEL: "gpt-5.4-mini",
            "gen_ai.usage.input_tokens": 1000,
        }
        for _ in range(count):
            span = self._tracer.start_span("chat", attributes=found)
            began = time.perf_counter()
            span.end()
            self.slowest = max(self.slowest, time.perf_counter() - began)
            self.sold += 1


class Events:
    """A sink that keeps rows and markers."""

    shown = "memory"

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.events: list[Row] = []

    def send(self, lines: Sequence[SpoolLine]) -> None:
        self.rows += [row for line in lines for row in line.contents.rows]
        self.events += [event for line in lines for event in line.contents.events]

    def expired(self) -> None:
        pass

    def on_idle(self) -> None:
        pass

    def close(self) -> None:
        pass


# --- the disk hangs ------------------------------------------------------------------------------------------------


def test_a_disk_that_hangs_stops_no_caller_and_loses_nothing(tmp_path: Path, monkeypatch):
    spool = new_spool(tmp_path)
    calls = Calls(spool)
    calls.make(20)
    write, hangs = os.write, threading.Event()

    def hanging(fd: int, data: bytes) -> int:
        hangs.wait(10)
        return write(fd, data)

    calls.slowest = 0.0
    with monkeypatch.context() as broken:
        broken.setattr(segments.os, "write", hanging)
        began = time.perf_counter()
        calls.make(200)
        assert time.perf_counter() - began < 5
        assert spool.waiting == 200, "they are in memory"
        hangs.set()
        end = time.monotonic() + 10
        while spool.waiting and time.monotonic() < end:
            time.sleep(0.01)
    assert calls.slowest < 0.5, "5 ms, and what a loaded machine adds"
    spool.close()
    lines = [line for file in tmp_path.glob("*.jsonl") for line in file.read_bytes().splitlines()]
    sequences = [row[COLUMN_NAMES.index("sequence")] for line in lines for row in contents(line).rows]
    assert sorted(sequences) == list(range(220))


def test_a_row_is_on_disk_when_its_call_returns_by_the_thread_as_well(tmp_path: Path):
    spool = new_spool(tmp_path)
    for number in range(200):
        assert spool.append(b'{"row": %d}\n' % number, number, 1)
        [file] = tmp_path.glob("*.jsonl")
        assert file.read_bytes().endswith(b'{"row": %d}\n' % number)
    spool.close()


def test_memory_is_bounded_while_the_disk_hangs(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("spanledger.spool.writer.MEMORY_ROWS", 5)
    spool = new_spool(tmp_path)
    hangs, write = threading.Event(), os.write
    with monkeypatch.context() as broken:
        broken.setattr(segments.os, "write", lambda fd, data: hangs.wait(10) and write(fd, data))
        kept = [spool.append(b"row\n", number, 10) for number in range(9)]
        assert kept.count(False) == 4
        hangs.set()
        spool.close()
    assert (spool.refused, spool.refused_picousd, spool.recorded) == (4, 40, 9)


def test_the_end_of_a_process_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr("spanledger.spool.writer.CLOSE_SECONDS", 0.1)
    spool = new_spool(tmp_path)
    hangs = threading.Event()
    monkeypatch.setattr(segments.os, "write", lambda fd, data: hangs.wait(10) and 0)
    spool.append(b"row\n", 0, 1)
    began = time.monotonic()
    spool.close()
    assert time.monotonic() - began < 5
    assert "1 calls of this process are not in the spool" in caplog.text
    assert "the disk does not answer" in caplog.text
    hangs.set()


# --- the ledger learns what is missing -----------------------------------------------------------------------------


def holes(dsn: str) -> list[tuple]:
    target = resolve_target(dsn)
    with open_client(target) as client:
        return client.query(
            f"SELECT from_sequence, to_sequence, missing_rows, missing_cost_usd, announced, service, host"
            f" FROM `{target.database}`.ledger_holes"
        ).result_rows


KILLED = """
import os, sys, time
sys.path[:0] = [{tests!r}]
from pathlib import Path
import test_nothing_silent as program
from spanledger.spool import segments
spool = program.new_spool(Path({directory!r}), {deadline})
calls = program.Calls(spool)
calls.make(10)
def full(fd, data):
    raise OSError(28, "No space left on device")
segments.os.write = full
calls.make(30)
os._exit(9)
"""


@pytest.mark.parametrize("deadline", [0, 5])
def test_a_process_killed_on_a_full_disk_is_a_gap_with_its_amount(deadline: int, tmp_path: Path):
    """Rows in memory are lost with the process; nothing could be written but the journal."""
    program = KILLED.format(tests=str(Path(__file__).parent), directory=str(tmp_path / "spool"), deadline=deadline)
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 9
    target = empty_ledger(tmp_path / "chdb")
    with open_client(target) as client:
        shipper.drain(tmp_path / "spool", ClickHouseSink(target, client))
    assert set(os.listdir(tmp_path / "spool")) <= {"ship.lock", "notices.log"}, "the journal is reported, and removed"
    cost = 30 * Decimal("0.00075")
    assert holes(target.dsn) == [(10, 39, 30, cost, 0, "shop", "box")]


def test_a_full_spool_is_an_announced_gap_even_of_a_killed_process(tmp_path: Path):
    spool = new_spool(tmp_path / "spool", max_bytes=20_000)
    Calls(spool).make(40)
    refused = spool.refused
    assert 0 < refused < 40
    spool._process.segments.close()
    assert spool._process.journal is not None
    spool._process.journal.close()  # as the system does for a process that is killed
    target = empty_ledger(tmp_path / "chdb")
    with open_client(target) as client:
        shipper.drain(tmp_path / "spool", ClickHouseSink(target, client))
    amount = refused * Decimal("0.00075")
    assert holes(target.dsn) == [(40 - refused, 39, refused, amount, 1, "shop", "box")]


def test_closed_segments_of_a_deleted_directory_are_a_gap_with_their_amount(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 5000)
    monkeypatch.setattr(segments, "CHECK_SECONDS", 0)
    monkeypatch.setattr("spanledger.spool.writer.CHECK_SECONDS", 0)
    directory = tmp_path / "spool"
    spool = new_spool(directory)
    calls = Calls(spool)
    calls.make(20)
    with spool._process.lock:  # not while the thread brings the journal up to date
        shutil.rmtree(directory)
    calls.make(5)
    spool.close()
    target = empty_ledger(tmp_path / "chdb")
    with open_client(target) as client:
        shipper.drain(directory, ClickHouseSink(target, client))
    [(first, _, missing, amount, announced, *_)] = holes(target.dsn)
    assert (first, announced) == (0, 0)
    assert 5 < missing < 20
    assert amount == missing * Decimal("0.00075")


def test_a_running_process_is_reported_once_a_minute_and_at_once_if_it_loses_rows(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("spanledger.spool.writer.CHECK_SECONDS", 0)
    spool = new_spool(tmp_path, max_bytes=20_000, deadline_ms=5000)  # what is reported is what is on the disk
    calls = Calls(spool)
    calls.make(3)
    until = time.monotonic() + 10
    while (
        noted := spool._process.noted
    ) is None or noted.next_sequence < 3:  # the thread notes a row after it is written
        assert time.monotonic() < until
        time.sleep(0.01)
    sink = Events()
    shipper.drain(tmp_path, sink)
    assert [event[1] for event in sink.events] == ["start"]
    monkeypatch.setattr(shipper, "HEARTBEAT_SECONDS", 0)
    shipper.drain(tmp_path, sink)
    shipper.drain(tmp_path, sink)
    assert [event[1] for event in sink.events] == ["start", "heartbeat"], "once: nothing has changed since"
    assert sink.events[-1][5] == 3
    monkeypatch.setattr(shipper, "HEARTBEAT_SECONDS", 1000)
    calls.make(40)
    shipper.drain(tmp_path, sink)
    assert sink.events[-1][5] == 43, "some found no place"
    assert len({event[2] for event in sink.events if event[1] == "heartbeat"}) == 1, "the newer replaces the older"
    spool.close()


def test_a_clean_end_leaves_no_journal(tmp_path: Path):
    spool = new_spool(tmp_path)
    Calls(spool).make(3)
    assert len(list(tmp_path.glob("*.journal"))) == 1
    spool.close()
    assert list(tmp_path.glob("*.journal")) == []
    sink = Events()
    shipper.drain(tmp_path, sink)
    assert [(event[1], event[5], event[-1]) for event in sink.events] == [
        ("start", None, None),
        ("end", 3, Decimal("0.00225")),
    ]


@pytest.mark.parametrize("content", [b"", b"x" * 3000, b"\n\n[]\n", b"\n\n" + b"[" * 60_000])
def test_a_file_that_is_no_journal_is_left_alone(content: bytes, tmp_path: Path):
    (tmp_path / "0123.journal").write_bytes(content)
    (tmp_path / "link.journal").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.journal")
    assert shipper.due_reports(tmp_path) == []
    shipper.drain(tmp_path, Events())
    assert len(list(tmp_path.glob("*.journal"))) == 3


def test_half_a_write_of_the_journal_leaves_the_totals_before_it(tmp_path: Path):
    book = journal.Journal(tmp_path, "p", Encoder().marker(RESOURCE, {a.MARKER: "heartbeat"}))
    book.note(journal.Totals(next_sequence=1, picousd=10))
    book.note(journal.Totals(next_sequence=2, picousd=20))
    book.close()
    content = bytearray(book.path.read_bytes())
    content[10:30] = b"9" * 20  # the second note is in the first line
    book.path.write_bytes(content)
    report = journal.read(book.path)
    assert report is not None
    assert (report.totals.next_sequence, report.totals.picousd, report.ended) == (1, 10, True)


# --- no place on disk, but a destination ---------------------------------------------------------------------------


def test_rows_that_found_no_directory_go_from_memory_to_the_destination(tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    spool = new_spool(tmp_path / "file" / "spool")
    background = BackgroundShipper(spool)
    background._sink = sink = Events()
    monkeypatch.setattr(background, "STRANDED_SECONDS", 0.0)
    Calls(spool).make(7)
    assert not background.flush(0.1), "nothing has taken them"
    assert background._run_once() is True
    assert (len(sink.rows), spool.waiting) == (7, 0)
    assert [(event[1], event[5]) for event in sink.events] == [("heartbeat", 7)]
    Calls(spool).make(1)
    background._run_once()
    assert len(sink.rows) == 8


def test_a_child_without_fork_hooks_gets_numbers_and_a_segment_of_its_own(tmp_path: Path):
    """As under uWSGI, whose workers are forked by C code that runs no hook of Python's."""
    spool = new_spool(tmp_path)
    Calls(spool).make(2)
    parent = spool.process_id
    process = spool._process
    process.process_number -= 1  # what a forked child finds
    spool._by_number.clear()
    Calls(spool).make(2)
    assert spool.process_id != parent
    files = {file.name.partition("-")[0]: file for file in tmp_path.glob("*.jsonl")}
    assert set(files) == {parent, spool.process_id}
    assert [len(contents(line).rows) for line in files[parent].read_bytes().splitlines()] == [0, 1, 1]
    spool.close()


def test_threads_that_make_the_first_calls_of_such_a_child_share_its_numbers(tmp_path: Path):
    spool = new_spool(tmp_path)
    calls = Calls(spool)
    calls.make(1)
    for _ in range(10):
        spool._process.process_number -= 1
        spool._by_number.clear()
        barrier = threading.Barrier(8)

        def work(barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            calls.make(3)

        threads = [threading.Thread(target=work) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    spool.close()
    rows = [
        row
        for file in tmp_path.glob("*.jsonl")
        for line in file.read_bytes().splitlines()
        for row in contents(line).rows
    ]
    keys = {(row[COLUMN_NAMES.index("process_id")], row[COLUMN_NAMES.index("sequence")]) for row in rows}
    assert (len(rows), len(keys), len({process for process, _ in keys})) == (241, 241, 11)


# --- the journal ---------------------------------------------------------------------------------------------------


def totals(directory: Path) -> journal.Totals:
    [file] = directory.glob("*.journal")
    report = journal.read(file)
    assert report is not None
    return report.totals


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("deadline", [0, 5])
def test_rows_that_follow_others_in_memory_are_in_the_journal(deadline: int, tmp_path: Path, monkeypatch):
    """As many as were there before, so that their number alone does not show them."""
    spool = new_spool(tmp_path, deadline)
    calls = Calls(spool)
    calls.make(2)
    background = BackgroundShipper(spool)
    background._sink = Events()
    monkeypatch.setattr(background, "STRANDED_SECONDS", 0.0)
    monkeypatch.setattr(segments.os, "write", full)
    calls.make(10)
    background._run_once()
    calls.make(10)
    assert (totals(tmp_path).next_sequence, totals(tmp_path).waiting) == (22, 10)


def test_a_journal_that_could_not_be_written_once_is_written_again(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("spanledger.spool.writer.CHECK_SECONDS", 0)
    monkeypatch.setattr("spanledger.spool.writer.RETRY_SECONDS", 0)
    spool = new_spool(tmp_path, 0)
    calls = Calls(spool)
    calls.make(3)
    with monkeypatch.context() as broken:
        broken.setattr(journal.os, "pwrite", full)
        calls.make(1)
    calls.make(5)
    assert totals(tmp_path).next_sequence == 9
    spool.close()


def test_a_segment_that_is_deleted_before_the_end_on_a_full_disk_is_a_gap(tmp_path: Path, monkeypatch, caplog):
    spool = new_spool(tmp_path)
    Calls(spool).make(5)
    for file in tmp_path.glob("*.jsonl"):
        file.unlink()
    monkeypatch.setattr(segments.os, "write", full)
    spool.close()
    assert totals(tmp_path).next_sequence == 5
    assert "calls of this process are not in the spool" in caplog.text


def test_a_spool_that_is_used_after_its_end_keeps_its_journal(tmp_path: Path, monkeypatch):
    spool = new_spool(tmp_path, 0)
    calls = Calls(spool)
    calls.make(3)
    monkeypatch.setattr(segments.os, "write", full)
    calls.make(2)
    spool.close()
    calls.make(4)
    assert totals(tmp_path).next_sequence == 9


def test_a_process_that_spent_more_than_a_call_can_is_recorded():
    line = Encoder().marker(RESOURCE, {a.MARKER: "end", a.RECORDED_COST: 10**18 + 5})
    [event] = contents(line).events
    assert event[-1] == Decimal("1000000.000000000005")


@pytest.mark.parametrize("attributes", [[{"key": "a"}, 5], [{"v": 1}], [], "x", None])
def test_a_journal_with_odd_attributes_stops_nothing(attributes: object, tmp_path: Path):
    book = journal.Journal(tmp_path, "a", Encoder().marker(RESOURCE, {a.MARKER: "heartbeat"}))
    book.note(journal.Totals(next_sequence=1))
    book.close()
    lines = book.path.read_bytes().splitlines(keepends=True)
    document = json.loads(lines[2])
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"] = attributes
    book.path.write_bytes(b"".join(lines[:2]) + json.dumps(document).encode())
    spool = new_spool(tmp_path)
    Calls(spool).make(1)
    sink = Events()
    shipper.drain(tmp_path, sink)
    assert len(sink.rows) == 1
    spool.close()


# --- what the application does meanwhile -----------------------------------------------------------------------------


BUSY = """
import os, sys, threading
sys.path[:0] = [{tests!r}]
from pathlib import Path
import test_nothing_silent as program
def spin():
    x = 0
    while True: x += 1
for _ in range(4): threading.Thread(target=spin, daemon=True).start()
spool = program.new_spool(Path({directory!r}))
spool.append(b"row\\n", 0, 1)
os._exit(9)
"""


def test_a_busy_process_waits_for_its_row_to_be_on_disk(tmp_path: Path):
    """Its threads keep the interpreter from the spool's: this is not a disk that hangs."""
    missing = 0
    for attempt in range(6):
        directory = tmp_path / str(attempt)
        program = BUSY.format(tests=str(Path(__file__).parent), directory=str(directory))
        subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
        found = [file.read_bytes() for file in directory.glob("*.jsonl")]
        missing += not any(b"row" in content for content in found)
    # Each lacks its row if its call waited five milliseconds, as for a disk that hangs; a slow machine loses some after a quarter of a second.
    assert missing <= 4, "only rows whose call waited a quarter of a second"


FINALIZED = """
import os, sys, time
sys.path[:0] = [{tests!r}]
from pathlib import Path
import test_nothing_silent as program
from spanledger.spool import segments, writer
writer.CLOSE_SECONDS = 0.2
write = os.write
segments.os.write = lambda fd, data: time.sleep(3) or write(fd, data)
class Late:
    def __init__(self, spool): self.spool = spool
    def __del__(self): self.spool.append(b"late\\n")
spool = program.new_spool(Path({directory!r}))
spool.append(b"row\\n", 0, 1)
spool.close()
program.late = Late(spool)
"""


def test_a_row_that_ends_with_the_interpreter_does_not_keep_it(tmp_path: Path):
    program = FINALIZED.format(tests=str(Path(__file__).parent), directory=str(tmp_path / "spool"))
    subprocess.run([sys.executable, "-c", program], check=False, timeout=30)


def test_a_logger_that_raises_stops_neither_the_thread_nor_the_caller(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("spanledger.spool.writer.RETRY_SECONDS", 0)
    monkeypatch.setattr(segments, "RETRY_SECONDS", 0)

    def broken(*_: object) -> None:
        raise RuntimeError("a filter of the application")

    for deadline in (0, 5):
        spool = new_spool(tmp_path / str(deadline), deadline)
        with monkeypatch.context() as patched:
            patched.setattr("spanledger.runtime.notices.log.log", broken)
            patched.setattr(segments.os, "write", full)
            assert spool.append(b"one\n")
        assert spool.append(b"two\n")
        assert spool.waiting == 0
        spool.close()


def test_a_signal_that_appends_while_its_thread_writes_does_not_wait_for_itself(tmp_path: Path, monkeypatch):
    spool = new_spool(tmp_path, 0)
    write, depth = os.write, [0]

    def interrupted(fd: int, data: bytes) -> int:
        if not depth[0]:
            depth[0] += 1
            assert spool.append(b"from the handler\n")
        return write(fd, data)

    monkeypatch.setattr(segments.os, "write", interrupted)
    assert spool.append(b"row\n")
    monkeypatch.undo()
    spool.close()
    [file] = tmp_path.glob("*.jsonl")
    assert b"row\n" in file.read_bytes()
    assert b"from the handler\n" in file.read_bytes()


def test_a_row_in_memory_that_is_refused_does_not_stop_the_spool(tmp_path: Path, monkeypatch):
    spool = new_spool(tmp_path)
    calls = Calls(spool)
    calls.make(5)
    with monkeypatch.context() as broken:
        broken.setattr(segments.os, "write", full)
        calls.make(1)

    class Picky(Events):
        def send(self, lines: Sequence[SpoolLine]) -> None:
            if any(row[COLUMN_NAMES.index("sequence")] == 5 for line in lines for row in line.contents.rows):
                raise SuspectError("nobody knows")
            super().send(lines)

    background = BackgroundShipper(spool)
    background._sink = sink = Picky()
    monkeypatch.setattr(background, "STRANDED_SECONDS", 0.0)
    background._run_once()
    assert len(sink.rows) == 5


def test_the_end_waits_two_seconds_even_if_the_disk_hangs_only_then(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("spanledger.spool.writer.CLOSE_SECONDS", 0.2)
    spool = new_spool(tmp_path)
    Calls(spool).make(1)
    hangs = threading.Event()
    write = os.write
    monkeypatch.setattr(segments.os, "write", lambda fd, data: hangs.wait(20) and write(fd, data))
    began = time.monotonic()
    spool.close()
    assert time.monotonic() - began < 5
    hangs.set()
