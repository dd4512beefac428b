"""Text from outside is cleaned on every way in, and shown as escapes on every way out: nothing runs in a terminal or a sheet."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from empty_ledger import empty_ledger
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from spanledger_clickhouse.rows.otlp import MAX_JSON, MAX_TEXT, Span, text
from spanledger_clickhouse.rows.rows import COLUMNS, MAX_ATTRIBUTES, row
from synthetic import call

pytestmark = pytest.mark.services

HOSTILE = "\x1b]0;owned\x07\x1b]52;c;cm0=\x07ada\x1b[2J\n  total  $0.00\u202e\x9b31m"
CLEAN = "]0;owned]52;c;cm0=ada[2J  total  $0.0031m"
FORMULA = "=cmd|' /C calc'!A0"


def controls(output: str) -> set[str]:
    return {c for c in output if not c.isprintable()} - {"\n"}


@given(st.text())
def test_text_from_outside_is_printable_and_bounded(value: str):
    cleaned = text(value)
    assert cleaned.isprintable()  # so is the empty text
    assert len(cleaned) <= 256
    assert cleaned == value or not value.isprintable() or len(value) > 256


def test_a_hostile_span_is_a_clean_row():
    attributes = {
        "user.id": HOSTILE, "spanledger.feature": "f" * 1_000_000, "spanledger.label.x": HOSTILE, "other": HOSTILE * 1000,
        "spanledger.usage.raw": "{" + "9" * 1_000_000, **{f"n{number}": number for number in range(1000)},
    }  # fmt: skip
    span = Span("spanledger.openai", {"service.name": HOSTILE}, attributes, "1" * 32, "2" * 16, "", "chat", 1, 2, False)
    cells = dict(zip(COLUMNS, row(span, "otlp"), strict=True))
    assert (cells["user_id"], cells["service"], cells["labels"]) == (CLEAN, CLEAN, {"x": CLEAN})
    further = cells["attributes"]
    assert isinstance(further, dict)
    sizes = (len(str(cells["feature"])), len(str(cells["usage_json"])), len(further), len(further["other"]))
    assert sizes == (256, MAX_JSON, MAX_ATTRIBUTES, MAX_TEXT)


@pytest.fixture(scope="module")
def dsn(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ledger of an earlier release, which kept text as it came."""
    where = empty_ledger(tmp_path_factory.mktemp("hostile") / "ledger")
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    names = {
        "user_id": HOSTILE,
        "request_id": HOSTILE,
        "service": HOSTILE,
        "request_model": HOSTILE,
        "response_model": HOSTILE,
    }
    rows = [
        call(span_id="1" * 16, start_time=now, cost_usd=Decimal(3), feature=HOSTILE, **names),
        call(span_id="2" * 16, start_time=now, cost_usd=Decimal(2), feature=FORMULA, **{**names, "user_id": "-1+1"}),
        call(span_id="3" * 16, start_time=now, cost_usd=None, price_status="unpriced:no_price", feature=None, **names),
    ]
    with open_client(where) as client:
        insert.insert(client, where, [tuple(cells.values()) for cells in rows])
    return where.dsn


@pytest.mark.parametrize(
    "words",
    [
        "spend --by user", "spend --by feature", "spend --by model", "spend --by request", "spend --by user --json", "top --once --minutes 600",
        "who-forgot", "report", "report --format md", "report --format html", "report --format slack", "report --format json", "doctor",
        "sql SELECT,user_id,FROM,llm_calls", "sql SELECT,any(user_id),FROM,llm_calls", "sql SELECT,user_id,FROM,llm_calls --json",
    ],
)  # fmt: skip
def test_no_command_prints_a_control_character(words: str, dsn: str, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("SPANLEDGER_DSN", dsn)
    monkeypatch.setenv("SPANLEDGER_SPOOL_DIR", str(tmp_path))
    result = CliRunner().invoke(main, [word.replace(",", " ") for word in words.split()])
    assert result.exit_code in (0, 1), result.output
    assert controls(result.output) == set()
    if "any(" not in words:  # a single value keeps its lines
        assert "\n  total  $0.00" not in result.output, "a line is forged"


@pytest.mark.parametrize("form", ["csv", "focus"])
def test_no_cell_of_an_exported_sheet_is_a_formula(form: str, dsn: str, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("SPANLEDGER_DSN", dsn)
    monkeypatch.setenv("SPANLEDGER_SPOOL_DIR", str(tmp_path / "spool"))
    out = tmp_path / "calls.csv"
    result = CliRunner().invoke(main, ["export", "--format", form, "--since", "2026-01-01", "--out", str(out)])
    assert result.exit_code == 0, result.output
    cells = [cell for line in csv.reader(io.StringIO(out.read_text())) for cell in line]
    assert f"'{FORMULA}" in cells
    risky = [cell for cell in cells if cell[:1] in ("=", "+", "@", "\t", "\r")]
    assert risky == []


def test_an_exported_json_line_keeps_text_as_it_is(dsn: str, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("SPANLEDGER_DSN", dsn)
    monkeypatch.setenv("SPANLEDGER_SPOOL_DIR", str(tmp_path / "spool"))
    out = tmp_path / "calls.jsonl"
    CliRunner().invoke(main, ["export", "--format", "jsonl", "--since", "2026-01-01", "--out", str(out)])
    assert FORMULA in {json.loads(line)["feature_name"] for line in out.read_text().splitlines()}
