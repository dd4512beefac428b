"""Shipping from a directory in which anything may lie: other files, links, wrong offsets, no room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Recorded
from memory_sink import Got, record
from spanledger_clickhouse.database.insert import SuspectError
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.rows.rows import rows
from spanledger_clickhouse.ship import dead_letters, shipper


def test_a_file_that_is_no_segment_is_named_and_stops_nothing(ledger: Recorded, provider: Provider, tmp_path: Path):
    record(ledger, provider, 3)
    ledger.spool.close()
    directory = ledger.spool.directory
    secret = tmp_path / "secret"
    secret.write_text("not a spool")
    (directory / "a-folder.jsonl").mkdir()
    os.mkfifo(directory / "a-pipe.jsonl")
    (directory / "a-link.jsonl").symlink_to(secret)
    (directory / "a-dangling-link.jsonl").symlink_to(tmp_path / "nowhere")
    got = Got()
    assert shipper.waiting_bytes(directory) > 0
    assert shipper.oldest_age_seconds(directory) >= 0
    stats = shipper.drain(directory, got)
    names = ("a-dangling-link.jsonl", "a-folder.jsonl", "a-link.jsonl", "a-pipe.jsonl")
    assert (len(got.rows), stats.problems) == (3, dict.fromkeys(names, "not a regular file"))
    assert secret.read_text() == "not a spool"


@pytest.mark.parametrize("offset", ["-5", "999999", "x", "", "9" * 100])
def test_an_incredible_offset_is_ignored(offset: str, ledger: Recorded, provider: Provider):
    record(ledger, provider, 3)
    ledger.spool.close()
    [segment] = ledger.spool.directory.glob("*.jsonl")
    segment.with_suffix(".ack").write_text(offset)
    got = Got()
    assert shipper.waiting_bytes(ledger.spool.directory) == segment.stat().st_size
    shipper.drain(ledger.spool.directory, got)
    assert len(got.rows) == 3
    assert list(ledger.spool.directory.glob("*.ack")) == []


def test_neither_lock_nor_offset_follows_a_link(ledger: Recorded, provider: Provider, tmp_path: Path):
    record(ledger, provider, 3)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    [segment] = ledger.spool.directory.glob("*.jsonl")
    (ledger.spool.directory / "ship.lock").symlink_to(victim)
    segment.with_suffix(".ack").symlink_to(victim)
    got = Got()
    stats = shipper.drain(ledger.spool.directory, got)
    assert (len(got.rows), victim.read_text()) == (3, "precious")
    assert list(stats.problems) == [segment.with_suffix(".ack").name]


@pytest.mark.parametrize("call", ["pwrite", "write"])
def test_a_full_disk_does_not_keep_the_spool_from_draining(
    call: str, ledger: Recorded, provider: Provider, monkeypatch
):
    """Neither the offset nor a dead letter can be written; what is complete is sent, and deleted."""
    record(ledger, provider, 3)
    ledger.spool.close()
    [segment] = ledger.spool.directory.glob("*.jsonl")
    torn = ledger.spool.directory / "torn.jsonl"
    torn.write_bytes(b'{"resourceSpans": [')
    os.utime(torn, (0, 0))

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, call, full)
    got = Got()
    stats = shipper.drain(ledger.spool.directory, got)
    monkeypatch.undo()
    assert (len(got.rows), segment.exists()) == (3, False)
    assert torn.exists() == (call == "write"), "kept until its dead letter can be written"
    assert set(stats.problems) == ({"torn.jsonl"} if call == "write" else set())


def test_a_suspect_row_alone_in_its_segment_keeps_no_other_segment_waiting(
    ledger: Recorded, provider: Provider, monkeypatch
):
    record(ledger, provider, 3)
    ledger.spool.close()
    directory = ledger.spool.directory
    [segment] = directory.glob("*.jsonl")
    odd = directory / "odd.jsonl"
    odd.write_bytes(next(line for line in segment.read_bytes().splitlines(keepends=True) if rows(line)))
    os.utime(odd, (0, 0))
    got = Got()
    monkeypatch.setattr(got, "send", send_but(got.send, 1))
    stats = shipper.drain(directory, got)
    assert (len(got.rows), stats.problems, odd.exists()) == (3, {"odd.jsonl": "something is wrong"}, True)


def send_but(send, count: int):
    """Refuses batches of a number of lines, without saying whose fault that is."""

    def refusing(lines) -> None:
        if len(lines) == count:
            raise SuspectError("something is wrong")
        send(lines)

    return refusing


def test_an_offset_within_a_line_is_ignored(ledger: Recorded, provider: Provider):
    record(ledger, provider, 3)
    ledger.spool.close()
    [segment] = ledger.spool.directory.glob("*.jsonl")
    segment.with_suffix(".ack").write_text("5")
    got = Got()
    stats = shipper.drain(ledger.spool.directory, got)
    assert (len(got.rows), stats.torn) == (3, 0)


def test_an_offset_that_cannot_be_written_is_remembered(ledger: Recorded, provider: Provider, tmp_path: Path):
    record(ledger, provider, 3)
    [segment] = ledger.spool.directory.glob("*.jsonl")
    segment.with_suffix(".ack").symlink_to(tmp_path / "elsewhere")
    got = Got()
    for _ in range(3):
        shipper.drain(ledger.spool.directory, got)
    assert len(got.rows) == 3
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("trap", ["pipe", "link", "folder link"])
def test_dead_letters_wait_for_no_pipe_and_follow_no_link(
    trap: str, ledger: Recorded, provider: Provider, tmp_path: Path
):
    record(ledger, provider, 3)
    ledger.spool.close()
    directory = ledger.spool.directory
    (directory / "torn.jsonl").write_bytes(b"{")
    os.utime(directory / "torn.jsonl", (0, 0))
    victim = tmp_path / "victim"
    victim.mkdir()
    if trap == "folder link":
        (directory / "dead").symlink_to(victim)
    else:
        (directory / "dead").mkdir()
        letters = directory / "dead" / "letters.jsonl"
        os.mkfifo(letters) if trap == "pipe" else letters.symlink_to(victim / "file")
    got = Got()
    stats = shipper.drain(directory, got)
    assert (len(got.rows), list(stats.problems), list(victim.iterdir())) == (3, ["torn.jsonl"], [])
    assert (directory / "torn.jsonl").exists()
    with pytest.raises(OSError):
        list(dead_letters.list_entries(directory))


def test_a_line_without_an_end_is_a_problem_of_its_file(ledger: Recorded, provider: Provider, monkeypatch):
    monkeypatch.setattr(shipper, "MAX_LINE_BYTES", 100_000)
    record(ledger, provider, 3)
    ledger.spool.close()
    (ledger.spool.directory / "endless.jsonl").write_bytes(b"x" * 200_000)
    got = Got()
    stats = shipper.drain(ledger.spool.directory, got)
    assert (len(got.rows), list(stats.problems)) == (3, ["endless.jsonl"])


def test_lines_of_another_program_are_kept_as_dead_letters(ledger: Recorded, provider: Provider):
    record(ledger, provider, 3)
    (ledger.spool.directory / "customers.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    os.utime(ledger.spool.directory / "customers.jsonl", (0, 0))
    shipper.drain(ledger.spool.directory, Got())
    assert [letter.line for letter in dead_letters.list_entries(ledger.spool.directory)] == [
        b'{"id": 1}\n',
        b'{"id": 2}\n',
    ]


def test_a_child_that_is_forked_while_the_spool_is_shipped_does_not_keep_the_lock(tmp_path: Path):
    """As under gunicorn --preload with a call at import: the workers were forked while the arbiter shipped."""
    program = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from spanledger_clickhouse.ship.shipper import BusyError, exclusive_shipper\n"
        "directory = Path(sys.argv[1])\n"
        "with exclusive_shipper(directory):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        time.sleep(60)\n"
        "        os._exit(0)\n"
        "for _ in range(100):\n"
        "    try:\n"
        "        with exclusive_shipper(directory): print('shipped')\n"
        "        break\n"
        "    except BusyError:\n"
        "        time.sleep(0.1)\n"  # until the child has run what a fork runs
        "os.kill(child, 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "shipped\n"
