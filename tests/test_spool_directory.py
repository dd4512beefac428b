"""Shipping from a directory in which anything may lie: other files, links, wrong offsets, no room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from loopback_provider import Provider

from conftest import Recorded
from memory_sink import Got, record
from spanledger_clickhouse.ship import shipper


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
