"""`spanledger top`: the current spend."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from empty_ledger import empty_ledger
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from synthetic import call

pytestmark = [pytest.mark.clock, pytest.mark.services]


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = empty_ledger(tmp_path / "ledger")
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    now = datetime.now(UTC)
    rows = [
        call(span_id="1" * 16, start_time=now - timedelta(minutes=5), feature="chat", user_id="ada", cost_usd=Decimal(3)),
        call(span_id="2" * 16, start_time=now - timedelta(minutes=9), feature="search", user_id="ada", cost_usd=Decimal(1), outcome="error"),
        call(span_id="3" * 16, start_time=now - timedelta(minutes=50), feature="old", user_id="bob", cost_usd=Decimal(9)),
        call(span_id="4" * 16, start_time=now - timedelta(minutes=1), feature=None, user_id=None, cost_usd=None),
    ]  # fmt: skip
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])


def test_the_most_expensive_recent_features_come_first(busy):
    found = CliRunner().invoke(main, ["top", "--minutes", "10", "--json"])
    assert found.exit_code == 0, found.output
    assert [(row["feature"], row["cost_usd"], row["per_hour_usd"], row["failed"], row["unpriced"]) for row in json.loads(found.stdout)] == [
        ("chat", "3.000000000000", "18.000000000000", 0, 0), ("search", "1.000000000000", "6.000000000000", 1, 0), (None, None, None, 0, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("by", ["user", "model", "tenant", "service"])
def test_spend_is_grouped_by_the_given_dimension(busy, by: str):
    found = CliRunner().invoke(main, ["top", "--by", by, "--once"])
    assert found.exit_code == 0, found.output
    assert f"by {by}" in found.output


def test_on_a_terminal_the_view_refreshes_until_it_is_interrupted(busy):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [Path(sys.executable).with_name("spanledger"), "top", "--every", "1"], stdout=slave, stderr=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    )  # fmt: skip
    os.close(slave)
    shown = b""
    end = time.monotonic() + 40
    while shown.count(b"Ctrl-C quits") < 2 and time.monotonic() < end:
        shown += os.read(master, 65536)
    process.send_signal(2)
    assert process.wait(20) in (0, 1, 130, -2)
    os.close(master)
    assert shown.count(b"Ctrl-C quits") >= 2
    assert b"chat" in shown
