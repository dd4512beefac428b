"""From the spool into ClickHouse: every row once, whatever happens to the shipper or the file."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import openai
import pytest
from loopback_provider import Provider

from conftest import Recorded
from spanledger_clickhouse import schema, shipper, writer
from spanledger_clickhouse.database import DatabaseError, Target, connect, connected, target
from spanledger_clickhouse.rows import COLUMNS, Row, rows


def record(ledger: Recorded, provider: Provider, calls: int = 3) -> list[Row]:
    with openai.OpenAI(api_key="k", base_url=f"{provider.url}/v1") as client:
        for number in range(calls):
            client.embeddings.create(model="text-embedding-3-small", input=f"text {number}")
    return [row for line in ledger.lines for row in rows(line)]


def test_draining_takes_every_row_and_removes_finished_segments(ledger: Recorded, provider: Provider):
    expected = record(ledger, provider)
    ledger.spool.close()
    got: list[Row] = []
    done = shipper.drain(ledger.spool.directory, got.extend)
    assert (got, done.rows, done.segments, done.torn) == (expected, 3, 1, 0)
    assert [file.name for file in ledger.spool.directory.iterdir()] == ["ship.lock"]


def test_a_segment_that_is_being_written_stays_and_is_not_shipped_twice(ledger: Recorded, provider: Provider):
    record(ledger, provider, 2)
    got: list[Row] = []
    shipper.drain(ledger.spool.directory, got.extend)
    record(ledger, provider, 1)
    shipper.drain(ledger.spool.directory, got.extend)
    assert len(got) == 3
    assert len(set(map(repr, got))) == 3
    assert list(ledger.spool.directory.glob("*.jsonl")) != []


def test_what_could_not_be_inserted_stays(ledger: Recorded, provider: Provider):
    record(ledger, provider)
    ledger.spool.close()

    def broken(_: list[Row]) -> None:
        raise DatabaseError("down")

    with pytest.raises(DatabaseError):
        shipper.drain(ledger.spool.directory, broken)
    got: list[Row] = []
    shipper.drain(ledger.spool.directory, got.extend)
    assert len(got) == 3


def test_a_torn_last_line_loses_nothing_before_it(ledger: Recorded, provider: Provider):
    expected = record(ledger, provider)
    ledger.spool.close()
    [file] = ledger.spool.directory.glob("*.jsonl")
    whole = file.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last + 1, len(whole) - 1, 37):
        file.write_bytes(whole[:cut])
        got: list[Row] = []
        done = shipper.drain(ledger.spool.directory, got.extend)
        assert (got, done.torn) == (expected[:-1], 1)


def test_one_shipper_a_directory(tmp_path: Path):
    with (
        shipper.sole_shipper(tmp_path),
        pytest.raises(shipper.BusyError),
        shipper.sole_shipper(tmp_path),
    ):
        pass


def test_a_spool_that_does_not_exist_is_empty(tmp_path: Path):
    assert shipper.drain(tmp_path / "none", lambda _: None).rows == 0
    assert shipper.waiting(tmp_path / "none") == 0


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[tuple[object, Target]]:
    where = target(f"chdb://{tmp_path / 'chdb'}")
    with connected(where) as client:
        schema.migrate(client, where)
        yield client, where


def count(client, where: Target) -> int:
    return client.query(f"SELECT count() FROM `{where.database}`.llm_calls FINAL").result_rows[0][0]


def test_a_row_comes_back_as_it_went_in(embedded, ledger: Recorded, provider: Provider):
    client, where = embedded
    [row] = record(ledger, provider, 1)
    writer.insert(client, where, [row])
    found = client.query(f"SELECT {', '.join(COLUMNS)} FROM `{where.database}`.llm_calls FINAL").result_rows
    [back] = found
    expected = dict(zip(COLUMNS, row, strict=True))
    got = dict(zip(COLUMNS, back, strict=True))
    got["start_time"] = got["start_time"].replace(tzinfo=UTC)  # the driver leaves the zone out where it is UTC
    assert got == expected


def test_a_batch_sent_again_is_there_once(embedded, ledger: Recorded, provider: Provider):
    client, where = embedded
    batch = record(ledger, provider)
    for _ in range(3):
        writer.insert(client, where, [*batch, batch[0]])
    assert client.query(f"SELECT count() FROM `{where.database}`.llm_calls").result_rows[0][0] == 3


def test_re_batched_rows_are_there_once(embedded, ledger: Recorded, provider: Provider):
    client, where = embedded
    batch = record(ledger, provider)
    writer.insert(client, where, batch)
    writer.insert(client, where, batch[:2])
    writer.insert(client, where, batch[1:])
    assert count(client, where) == 3


def test_migrating_again_changes_nothing(embedded):
    client, where = embedded
    assert schema.migrate(client, where) == []
    assert schema.pending(client, where) == []


def test_every_view_can_be_asked(embedded, ledger: Recorded, provider: Provider):
    client, where = embedded
    writer.insert(client, where, record(ledger, provider))
    for migration in schema.migrations(where.database):
        folder, _, name = migration.name.partition("/")
        if folder == "views":
            client.query(f"SELECT * FROM `{where.database}`.{name.removesuffix('.sql')}")


@pytest.fixture
def front(tmp_path: Path) -> Iterator[str]:
    """A ClickHouse server, as far as HTTP can tell."""
    command = [sys.executable, Path(__file__).parent / "clickhouse_front.py", tmp_path / "server"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    yield f"clickhouse://default:s3cret@127.0.0.1:{port}/llm"
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_server_is_migrated_and_written_over_http(front: str, ledger: Recorded, provider: Provider):
    where = target(front)
    with connected(where) as client:
        assert schema.migrate(client, where) != []
        batch = record(ledger, provider)
        writer.insert(client, where, batch)
        writer.insert(client, where, batch)
        assert count(client, where) == 3


def test_the_applications_own_shipper_sends_to_a_server(front: str, ledger: Recorded, provider: Provider):
    record(ledger, provider)
    background = shipper.BackgroundShipper(ledger.spool.directory, front)
    background.start()
    background.flush()
    for _ in range(100):
        if not shipper.waiting(ledger.spool.directory):
            break
        time.sleep(0.1)
    background.stop()
    where = target(front)
    with connected(where) as client:
        assert count(client, where) == 3


def test_an_outage_is_one_line_and_the_rows_wait(ledger: Recorded, provider: Provider, caplog):
    record(ledger, provider)
    background = shipper.BackgroundShipper(ledger.spool.directory, "http://app:s3cret@127.0.0.1:9/llm")
    with caplog.at_level(logging.ERROR, "spanledger"):
        background.start()
        background.flush()
        for _ in range(100):
            if caplog.records:
                break
            time.sleep(0.05)
        background.stop()
    [line] = {record.message for record in caplog.records}
    assert "cannot reach ClickHouse at http://app:***@127.0.0.1:9/llm" in line
    assert "s3cret" not in line
    assert shipper.waiting(ledger.spool.directory) > 0


@pytest.mark.parametrize("dsn", ["mysql://x", "nonsense", "http://", "chdb-typo:///x"])
def test_a_wrong_dsn_says_what_a_dsn_is(dsn: str):
    with pytest.raises(DatabaseError, match=r"use clickhouse\[s\]://"):
        target(dsn)


def test_the_embedded_ledger_serves_one_process(tmp_path: Path):
    where = target(f"chdb://{tmp_path / 'chdb'}")
    code = f"from spanledger_clickhouse.database import connect, target; connect(target({where.dsn!r}))"
    with connected(where):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ)
        )
    assert "is another spanledger command running?" in done.stderr


def test_connecting_needs_no_database_to_exist_yet(front: str):
    connect(target(front)).close()
