"""`spanledger export`: the file has the calls of the ledger."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from empty_ledger import empty_ledger
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from synthetic import call

pytestmark = pytest.mark.clock


@pytest.fixture
def march(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = empty_ledger(tmp_path / "ledger")
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    rows = [
        call(span_id=f"{n:016x}", start_time=datetime(2026, 3, n + 1, tzinfo=UTC), feature='sum, "quoted"', cost_usd=Decimal("0.000000000007"))
        for n in range(3)
    ]  # fmt: skip
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])


WINDOW = ["export", "--since", "2026-03-01", "--until", "2026-03-03"]


def test_focus_is_a_csv_with_exact_costs(march):
    found = CliRunner().invoke(main, WINDOW)
    assert found.exit_code == 0, found.output
    lines = list(csv.DictReader(io.StringIO(found.stdout)))
    assert sum(Decimal(line["BilledCost"]) for line in lines if line["BilledCost"] != "\\N") == Decimal(
        "0.000000000014"
    )
    assert {line["x_Feature"] for line in lines} == {'sum, "quoted"'}
    assert {line["ServiceProviderName"] for line in lines} == {"openai"}


def test_calls_are_exported_as_csv_json_lines_and_parquet(march, tmp_path: Path):
    lines = list(csv.DictReader(io.StringIO(CliRunner().invoke(main, [*WINDOW, "--format", "csv"]).stdout)))
    objects = [
        json.loads(line) for line in CliRunner().invoke(main, [*WINDOW, "--format", "jsonl"]).stdout.splitlines()
    ]
    assert [line["call_id"] for line in lines] == [found["call_id"] for found in objects]
    assert len(lines) == 2
    out = tmp_path / "march.parquet"
    assert CliRunner().invoke(main, [*WINDOW, "--format", "parquet", "--out", str(out)]).exit_code == 0
    assert out.read_bytes()[:4] == b"PAR1"


def test_an_unwritable_file_is_an_error(march, tmp_path: Path):
    found = CliRunner().invoke(main, [*WINDOW, "--out", str(tmp_path / "nowhere/x.csv")])
    assert found.exit_code == 1
    assert "cannot be written" in found.output
