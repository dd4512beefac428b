"""Kills, disks, clocks, networks and other tenants over all topologies, in short: `make chaos` is the long form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import chaos
from collector_stack import collector_binary
from programs import Programs
from spanledger_clickhouse.database import connection
from spanledger_clickhouse.database.connection import DatabaseError, open_client, resolve_target
from spanledger_clickhouse.demo.loopback_provider import Provider

pytestmark = pytest.mark.services

SECONDS = 8.0
SHORT = (
    ("shipped by the application", "kill and network", 1),
    ("shipped beside it", "kill and network", 2),
    ("shipped beside it", "disk", 3),
    ("shipped by the application", "clock", 4),
    ("Collector and gateway", "kill and network", 5),
    ("Collector and gateway", "tenant", 6),
    ("Collector reads the spool", "kill and network", 7),
)


@pytest.mark.parametrize(("topology", "fault", "seed"), SHORT)
def test_what_was_sold_is_in_the_ledger(
    topology: str, fault: str, seed: int, provider: Provider, programs: Programs, tmp_path: Path, capsys
):
    run = chaos.Run(topology, fault, seed, SECONDS, provider, programs, tmp_path, collector_binary())
    outcome = run.execute()
    with capsys.disabled():
        print(f"\n{outcome.line()}")  # noqa: T201 - the seed, and what happened, belong in the output
    assert outcome.problems == []


HOLDING = """
import sys, time
from spanledger_clickhouse.database.connection import open_client, resolve_target
with open_client(resolve_target(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_a_command_waits_for_another_that_has_the_embedded_ledger(tmp_path: Path, monkeypatch, capfd):
    where = resolve_target(f"chdb://{tmp_path / 'ledger'}")

    def hold(seconds: float) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", HOLDING, where.dsn, str(seconds)]
        other = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        return other

    other = hold(1.5)
    with open_client(where) as client, open_client(where) as second:
        assert client.query("SELECT 1").result_rows == second.query("SELECT 1").result_rows == [(1,)]
    other.communicate(timeout=10)
    monkeypatch.setattr(connection, "WAIT_SECONDS", 0.5)
    other = hold(30)
    try:
        with pytest.raises(DatabaseError, match="is another spanledger command running"), open_client(where):
            pass
    finally:
        other.kill()
        other.communicate()
    assert capfd.readouterr().err == "", "the engine was not asked"
