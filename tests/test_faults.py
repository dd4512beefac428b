"""Real processes, real sockets, killed at random: what the provider sold is in ClickHouse, once, to the picodollar.

An application under `opentelemetry-instrument`, `spanledger ship --follow` beside it, and ClickHouse behind a front
that refuses, hangs, resets and commits without answering. Each of the three is SIGKILLed and started again at random
moments while calls go on. SPANLEDGER_FAULT_SECONDS makes the load longer, SPANLEDGER_FAULT_SEEDS makes it others.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import demo
import pytest
from loopback_provider import Provider

from programs import APPLICATION, BIN, THREADS, Programs, until
from spanledger_clickhouse.database import connection
from spanledger_clickhouse.database.connection import DatabaseError, open_client, resolve_target
from spanledger_clickhouse.database.rollups import Rollups
from spanledger_clickhouse.ship import shipper

pytestmark = pytest.mark.services

SECONDS = float(os.environ.get("SPANLEDGER_FAULT_SECONDS", "12"))
SEEDS = [int(seed) for seed in os.environ.get("SPANLEDGER_FAULT_SEEDS", "1,2").split(",")]


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_sold_is_in_the_ledger(seed: int, provider: Provider, tmp_path: Path, programs: Programs, capsys):
    chance = random.Random(seed)
    port = demo.free_port()
    dsn = f"clickhouse://default:s3cret@127.0.0.1:{port}/llm"
    (tmp_path / "app.py").write_text(APPLICATION)
    server = [sys.executable, Path(__file__).parent / "clickhouse_front.py", tmp_path / "server", "--port", port]
    front = programs(*server, "--faults", seed)
    follow = [BIN / "spanledger", "ship", "--follow", "--every", "0.2"]
    ship = programs(*follow, SPANLEDGER_DSN=dsn)
    own = {"SPANLEDGER_DSN": dsn} if seed % 2 else {}  # the application ships too: one of the two holds the spool
    app = programs(BIN / "opentelemetry-instrument", BIN / "python", "app.py", **own)
    until(lambda: len(provider.sold) > 20)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.2, 2.0))
        victim = chance.choice([app, app, ship, front])
        victim.kill()
        time.sleep(chance.uniform(0.0, 0.3))
        victim.start()
    for program in (app, ship, front):
        program.kill()

    quiet = programs(*server)
    until(lambda: _up(dsn))
    shipped = subprocess.run(
        [BIN / "spanledger", "ship"],
        env={**programs.env, "SPANLEDGER_DSN": dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shipped.returncode == 0, shipped.stderr
    with open_client(resolve_target(dsn)) as client:
        rows = client.query("SELECT response_id, cost_usd, process_id, sequence FROM llm.llm_calls FINAL").result_rows
        holes = client.query("SELECT sum(missing_rows) FROM llm.ledger_holes WHERE NOT announced").result_rows[0][0]
        stored = client.query("SELECT count() FROM llm.llm_calls").result_rows[0][0]
        rollups = Rollups(client, resolve_target(dsn))
        rollups.refresh(now=datetime.now(UTC) + timedelta(hours=1))
        rolled = client.query("SELECT sum(calls), sum(cost_usd) FROM llm.llm_costs_1h").result_rows[0]
    quiet.kill()

    sold = {each.id: each.picousd or 0 for each in provider.sold}
    have = {row[0]: row[1] for row in rows}
    returned = set((tmp_path / "done").read_text().split())
    missing = sold.keys() - have.keys()
    with capsys.disabled():
        print(  # noqa: T201 - the seed, and what happened, belong in the output
            f"\nseed {seed}: {app.kills}, {ship.kills}, {front.kills} kills of application, shipper and database; "
            f"{len(sold)} calls sold, {len(have)} rows ({stored} stored), {len(missing)} cut off with the application"
        )
    assert len(rows) == len(have)
    assert have.keys() <= sold.keys()
    assert not returned - have.keys(), "a call that came back to the application has a row"
    assert len(missing) <= THREADS * app.kills, "only calls that were under way when it was killed have none"
    assert sum(have.values(), Decimal(0)).scaleb(12) == sum(sold[each] for each in have)
    assert rolled == (len(have), sum(have.values(), Decimal(0)))
    assert holes <= len(missing)
    assert app.kills > 2
    assert shipper.waiting_bytes(tmp_path / "spanledger/spool") == 0


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


def _up(dsn: str) -> bool:
    try:
        with open_client(resolve_target(dsn)):
            return True
    except Exception:  # noqa: BLE001 - whatever it says, it is not up yet
        return False
