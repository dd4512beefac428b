"""The spool: a row is on disk when a span has ended, in OpenTelemetry's own format."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode

from spanledger.semconv import attributes as a
from spanledger.spool import segments
from spanledger.spool.otlp_json import Encoder
from spanledger.spool.segments import SEGMENT_BYTES
from spanledger.spool.writer import LostRows, Spool

pytestmark = pytest.mark.services


class Kept(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


KEPT = Kept()
TRACING = TracerProvider(resource=Resource({"service.name": 'a "b" \\', "n": 1}), shutdown_on_exit=False)
TRACING.add_span_processor(KEPT)

VALUES = (
    st.text()
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(st.text())
    | st.lists(st.integers(0, 2**40))
)


def comparable(line: dict) -> dict:
    """Without what proto-JSON may write or leave out: empty values and default numbers, and the order of keys."""
    if isinstance(line, dict):
        cleaned = {key: comparable(value) for key, value in line.items()}
        return {
            key: value
            for key, value in cleaned.items()
            if value not in (None, "", [], {}, 0, "0") or key.endswith("Value")
        }
    if isinstance(line, list):
        return [comparable(value) for value in line]
    return line


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(min_size=1), VALUES, max_size=6), st.text(), st.booleans())
def test_a_line_equals_the_output_of_the_official_encoder(attributes, name, failed):
    tracer = TRACING.get_tracer("spanledger.test", "1.0")
    parent = tracer.start_span("parent")
    from opentelemetry.trace import set_span_in_context

    span = tracer.start_span(name, set_span_in_context(parent), SpanKind.CLIENT, attributes)
    if failed:
        span.set_status(Status(StatusCode.ERROR, "it broke"))
    span.end()
    ours = json.loads(Encoder().line(KEPT.spans[-1]))
    theirs = json.loads(encode_spans([KEPT.spans[-1]]).to_json())
    flags = theirs["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    flags["flags"] = ours["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["flags"]  # they add is-remote bits
    assert comparable(ours) == comparable(theirs)


def test_a_row_is_on_disk_when_append_returns(tmp_path: Path):
    spool = Spool(tmp_path, 1 << 30)
    assert spool.append(b"one\n")
    assert spool.append(b"two\n")
    [file] = tmp_path.glob("*.jsonl")
    assert file.read_bytes() == b"one\ntwo\n"
    assert file.stat().st_mode & 0o077 == 0
    spool.close()


def test_a_segment_is_closed_when_it_is_large(tmp_path: Path):
    spool = Spool(tmp_path, 1 << 30)
    line = b"x" * (SEGMENT_BYTES // 2) + b"\n"
    for _ in range(3):
        spool.append(line)
    spool.close()
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


def marker(attributes) -> bytes:
    return json.dumps(dict(attributes)).encode() + b"\n"


def records(directory: Path) -> list[dict]:
    files = sorted(directory.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def test_a_full_spool_drops_the_newest_rows_and_reports_them_when_there_is_room(tmp_path: Path, caplog):
    (tmp_path / "other.jsonl").write_bytes(b"x" * 900)
    spool = Spool(tmp_path, 1200, marker)
    row = b'{"row": 1}\n'
    assert spool.append(row, 0, 7)
    with caplog.at_level(logging.ERROR, "spanledger"):
        assert [spool.append(b"x" * 400 + b"\n", n, 10) for n in (1, 2, 3)] == [False] * 3
    assert [record.message.count("SPANLEDGER_SPOOL_MAX_BYTES") for record in caplog.records] == [1]
    (tmp_path / "other.jsonl").unlink()
    spool._process.segments.try_now()
    assert spool.append(b'{"row": 2, "text": "' + b"x" * 400 + b'"}\n', 4, 7)
    spool.close()
    kinds = [line.get(a.MARKER, "row") for line in records(tmp_path)]
    assert kinds == ["start", "row", "loss", "row", "end"]
    loss = records(tmp_path)[2]
    assert (loss[a.LOST_ROWS], loss[a.COST_TOTAL], loss[a.LOST_FROM], loss[a.LOST_TO]) == (3, 30, 1, 3)


def test_rows_stay_in_memory_until_the_directory_can_be_created(tmp_path: Path, caplog):
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "spool", 1 << 30)
    with caplog.at_level(logging.ERROR, "spanledger"):
        assert [spool.append(b"%d\n" % n) for n in range(3)] == [True] * 3
    assert ["SPANLEDGER_SPOOL_DIR" in record.message for record in caplog.records] == [True]
    (tmp_path / "file").unlink()
    spool._process.segments.try_now()
    assert spool.append(b"3\n")
    assert records(tmp_path / "file" / "spool") == [0, 1, 2, 3]


def test_a_segment_deleted_while_in_use_is_written_again(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr(segments, "CHECK_SECONDS", 0)
    directory = tmp_path / "spool"
    spool = Spool(directory, 1 << 20)
    for number in range(3):
        assert spool.append(b"%d\n" % number)
    shutil.rmtree(directory)
    assert spool.append(b"3\n")
    shutil.rmtree(directory)
    spool.close()
    assert "".join(path.read_text() for path in directory.iterdir()) == "0\n1\n2\n3\n"
    assert "was deleted while in use" in caplog.text


def test_a_deleted_directory_that_cannot_be_made_again_leaves_the_rows_in_memory(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(segments, "CHECK_SECONDS", 0)
    directory = tmp_path / "spool"
    spool = Spool(directory, 1 << 20)
    spool.append(b"0\n")
    shutil.rmtree(directory)
    directory.write_text("a file in the way")
    assert spool.append(b"1\n")
    directory.unlink()
    spool.close()
    assert "".join(path.read_text() for path in directory.glob("*.jsonl")) == "0\n1\n"


def test_a_segment_deleted_before_it_is_full_is_written_again(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100)
    directory = tmp_path / "spool"
    spool = Spool(directory, 1 << 20)
    for number in range(40):
        spool.append(b"%08d\n" % number)
        if number == 14:
            shutil.rmtree(directory)
    spool.close()
    lines = sorted("".join(path.read_text() for path in directory.glob("*.jsonl")).split())
    assert lines == [f"{number:08d}" for number in range(12, 40)], "the first segment was closed already"


def test_a_link_in_the_directory_does_not_stop_the_writer(tmp_path: Path):
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    big = tmp_path.parent / f"{tmp_path.name}-big"
    big.write_bytes(b"x" * 1000)
    (tmp_path / "big.jsonl").symlink_to(big)
    spool = Spool(tmp_path, 100)
    assert spool.append(b"row\n")
    assert spool.written == 1


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system without a lock manager."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("spanledger.runtime.file_locks.fcntl.flock", unsupported)


def test_a_file_system_without_locks_keeps_rows_and_leaks_no_descriptor(tmp_path: Path, monkeypatch, caplog):
    without_locks(monkeypatch)
    spool = Spool(tmp_path, 1 << 20)
    spool.append(b"row\n")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        spool.append(b"row\n")
    assert len(os.listdir("/proc/self/fd")) == before
    [segment] = tmp_path.glob("*.jsonl")
    assert segment.read_bytes() == b"row\n" * 21
    assert caplog.text.count("has no locks") == 1


def test_the_number_and_cost_of_unrecorded_calls_are_logged_at_exit(tmp_path: Path, caplog):
    spool = Spool(tmp_path / "spool", 10)
    spool.append(b"12345678\n", 0, 1)
    for number in (1, 2):
        assert not spool.append(b"12345678\n", number, 3 * 10**12)
    spool.close()
    assert "2 calls of this process are not in the spool" in caplog.text
    assert "2 of them cost $6.000000" in caplog.text


def test_rows_in_memory_are_bounded(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("spanledger.spool.writer.MEMORY_ROWS", 2)
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "spool", 1 << 30)
    assert [spool.append(b"row\n") for _ in range(3)] == [True, True, False]
    assert spool.refused == 1


def test_a_full_disk_is_one_log_line_and_nothing_is_lost(tmp_path: Path, caplog):
    spool = Spool(tmp_path, 1 << 30)
    segments_of = spool._process.segments
    segments_of.fd, segments_of.opened = os.open("/dev/full", os.O_WRONLY), time.monotonic()
    with caplog.at_level(logging.ERROR, "spanledger"):
        assert spool.append(b"1\n")
        assert spool.append(b"2\n")
    spool._process.segments.try_now()
    assert spool.append(b"3\n")
    spool.close()
    assert ["No space left on device" in record.message for record in caplog.records] == [True]
    assert records(tmp_path) == [1, 2, 3]


def test_a_segment_is_closed_when_it_is_old(tmp_path: Path):
    spool = Spool(tmp_path, 1 << 30)
    spool.append(b"1\n")
    spool._process.segments.opened -= 1000
    spool.append(b"2\n")
    spool.close()
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


def test_a_synchronized_spool_forces_rows_to_the_device(tmp_path: Path, monkeypatch):
    synced = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.set())
    spool = Spool(tmp_path, 1 << 30, sync_ms=5)
    spool.append(b"1\n")
    assert synced.wait(5)
    spool.close()


def test_a_process_that_exits_cleanly_records_its_last_number(tmp_path: Path):
    spool = Spool(tmp_path, 1 << 30, marker)
    for _ in range(3):
        spool.append(b'{"row": 1}\n', spool.next_sequence())
    spool.close()
    assert [line.get(a.MARKER, "row") for line in records(tmp_path)] == ["start", "row", "row", "row", "end"]
    assert records(tmp_path)[-1][a.SEQUENCE] == 3


FORKING = """
import os, sys
from pathlib import Path
from spanledger.spool.writer import Spool
spool = Spool(Path(sys.argv[1]), 1 << 30)
spool.append(b"parent\\n")
spool.next_sequence()
child = os.fork()
if child == 0:
    spool.after_fork()
    os._exit(0 if spool.next_sequence() == 0 and spool.append(b"child\\n") else 1)
assert os.waitpid(child, 0)[1] == 0
spool.append(b"parent\\n")
"""


def test_a_forked_child_has_its_own_segment_and_numbers(tmp_path: Path):
    subprocess.run([sys.executable, "-c", FORKING, tmp_path], check=True, timeout=60)
    assert sorted(file.read_bytes() for file in tmp_path.glob("*.jsonl")) == [b"child\n", b"parent\nparent\n"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_encoded_as_in_proto_json(value):
    from spanledger.spool.otlp_json import _value

    assert json.loads(f"{{{_value(value)}}}")["doubleValue"] in ("NaN", "Infinity", "-Infinity")


def test_rows_in_memory_are_written_at_exit(tmp_path: Path):
    """A directory that cannot be created for the first rows, but can when the process exits."""
    (tmp_path / "spool").write_text("in the way")
    spool = Spool(tmp_path / "spool", 1 << 20)
    assert spool.append(b"one\n")
    (tmp_path / "spool").unlink()
    spool.close()
    [file] = (tmp_path / "spool").glob("*.jsonl")
    assert file.read_bytes() == b"one\n"


def test_lost_rows_reported_out_of_order_have_correct_bounds():
    lost = LostRows()
    for sequence in (11, 10, 12):
        lost.add(sequence, 1)
    assert (lost.first, lost.last, lost.count) == (10, 12, 3)
