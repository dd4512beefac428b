"""The FinOps Foundation's own validator accepts the FOCUS export, but for two of its rules that contradict the specification."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from empty_ledger import empty_ledger
from matrix.environments import python
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from synthetic import call

CONTRADICTORY = {
    "ResourceID_Required": "FOCUS 1.0 to 1.4 call the column ResourceId",
    "SkuPriceId_Nullable": "it reads the column ChargeType, which FOCUS 1.0 replaced by ChargeCategory",
}
"""Rules of focus-validator 1.0.0 that no export of FOCUS 1.0 can pass, and why."""


def test_the_validator_of_focus_accepts_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    where = empty_ledger(tmp_path / "ledger")
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    at = datetime(2026, 3, 5, 12, tzinfo=UTC)
    used = {
        "input_uncached_tokens": 100,
        "output_text_tokens": 5,
        "input_cost_usd": Decimal("0.3"),
        "output_cost_usd": Decimal("0.2"),
    }
    rows = [
        call(span_id="1" * 16, start_time=at, cost_usd=Decimal("0.5"), **used),
        call(span_id="2" * 16, start_time=at + timedelta(days=40), cost_usd=Decimal("0.5"), team="search", feature='say "hi", \\n', **used),
        call(span_id="3" * 16, start_time=at, cost_usd=None, price_status="unpriced:no_model", output_text_tokens=5),
        call(span_id="4" * 16, start_time=at, cost_usd=Decimal("0.01"), tools_cost_usd=Decimal("0.01"), web_searches=1, inference_geo="eu"),
    ]  # fmt: skip
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])
    file = tmp_path / "focus.csv"
    exported = CliRunner().invoke(main, ["export", "--format", "focus", "--since", "2026-03-01", "--out", str(file)])
    assert exported.exit_code == 0, exported.output
    executable = python("focus", "focus-validator==1.0.0", "multimethod<2")
    home = next(
        (executable.parent.parent / "lib").glob("python*/site-packages")
    )  # it finds its list of currencies from here
    command = [executable.with_name("focus-validator"), "--data-file", file, "--validate-version", "1.0"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    assert "Validation" in done.stdout + done.stderr, done.stderr
    failed = set(re.findall(r"^(\w+) failed:", done.stdout, re.MULTILINE))
    assert failed == CONTRADICTORY.keys()
