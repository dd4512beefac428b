"""`spanledger spend`: periods, dimensions, comparison; tables that fit the terminal and never split a number."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from empty_ledger import empty_ledger
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.cli.output import show
from spanledger_clickhouse.cli.tables import columns_of, fitting
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from spanledger_clickhouse.database.ledger import Result
from spanledger_clickhouse.report.spending import period_before
from synthetic import call

pytestmark = pytest.mark.clock


@pytest.fixture
def spring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = empty_ledger(tmp_path / "ledger")
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    rows = [
        call(span_id=f"{n:016x}", response_id=f"r-{n}", start_time=datetime(2026, month, day, 12, tzinfo=UTC), cost_usd=Decimal(cost),
             feature=feature, user_id=user, response_model=model)
        for n, (month, day, cost, feature, user, model) in enumerate([
            (2, 5, 10, "chat", "ada", "gpt-4.1"), (2, 6, 5, "search", "bob", "gpt-4.1"),
            (3, 1, 20, "chat", "ada", "gpt-4.1"), (3, 1, 4, "chat", "bob", "gpt-5"), (3, 2, 7, "search", None, "gpt-5"),
        ])
    ]  # fmt: skip
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])


def spent(*words: str) -> list[dict[str, object]]:
    done = CliRunner().invoke(main, ["spend", *words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_month_by_several_dimensions(spring: None):
    rows = spent("--month", "2026-03", "--by", "feature,model")
    assert [(row["feature"], row["model"], Decimal(str(row["total_cost_usd"]))) for row in rows] == [
        ("chat", "gpt-4.1", 20), ("search", "gpt-5", 7), ("chat", "gpt-5", 4),
    ]  # fmt: skip


def test_a_period_stands_beside_the_one_before(spring: None):
    rows = spent("--since", "2026-03-01", "--until", "2026-03-29", "--by", "user", "--compare", "previous")
    assert [(row["user_id"], Decimal(str(row["previous_cost_usd"] or 0)), row["change_share"]) for row in rows] == [
        ("ada", 10, 1.0), (None, 0, None), ("bob", 5, pytest.approx(-0.2)),
    ]  # fmt: skip


def test_a_month_stands_beside_the_whole_month_before(spring: None):
    rows = spent("--month", "2026-03", "--by", "provider", "--compare", "previous")
    assert [Decimal(str(row["previous_cost_usd"])) for row in rows] == [15]
    done = CliRunner().invoke(main, ["spend", "--month", "2026-03", "--compare", "previous"])
    assert "(previous: 2026-02-01 00:00 to 2026-03-01 00:00)" in done.stdout
    now = datetime(2026, 3, 11, 6, tzinfo=UTC)
    march = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
    assert period_before(*march, now=now) == (datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 2, 11, 6, tzinfo=UTC))
    assert period_before(*march, now=march[1]) == (datetime(2026, 2, 1, tzinfo=UTC), march[0])
    assert period_before(march[0] + timedelta(days=1), march[1], now=now)[0] == march[0] - timedelta(days=29)


@pytest.mark.parametrize(
    ("words", "total"),
    [
        (("--where", "user=bob"), 9),
        (("--where", "user="), 7),
        (("--where", "feature=chat", "--where", "model=gpt-5"), 4),
    ],
)
def test_a_filter_takes_values_as_they_are(words: tuple[str, ...], total: int, spring: None):
    assert sum(Decimal(str(row["total_cost_usd"])) for row in spent("--by", "provider", *words)) == total
    assert spent("--where", "user=' OR 1=1 --") == []


def test_days_are_in_order_and_have_bars(spring: None):
    done = CliRunner().invoke(main, ["spend", "--by", "day", "--month", "2026-03"])
    lines = done.stdout.splitlines()
    assert lines[0] == "Spend by day, 2026-03-01 00:00 to 2026-04-01 00:00 UTC"
    assert [line.split()[0] for line in lines[2:4]] == ["2026-03-01", "2026-03-02"]
    assert lines[2].count("█") == 24
    assert lines[3].count("█") == 7
    assert "total $31.00 in 3 calls" in done.stdout


def test_all_time_is_said_and_wrong_words_are_refused(spring: None):
    assert CliRunner().invoke(main, ["spend"]).stdout.startswith("Spend by feature, all time")
    assert "total $46.00 in 5 calls" in CliRunner().invoke(main, ["spend", "--sort", "calls"]).stdout
    for words in (
        ["--by", "planet"],
        ["--where", "user"],
        ["--days", "3", "--month", "2026-03"],
        ["--compare", "previous"],
        ["--since", "2099-01-01"],
        ["--by", "day", "--days", "3", "--compare", "previous"],
    ):
        assert CliRunner().invoke(main, ["spend", *words]).exit_code == 2, words


TABLE = Result(
    ("request_id", "feature", "total_cost_usd", "calls", "tokens", "at"),
    ("String", "String", "Decimal(18, 12)", "UInt64", "UInt64", "DateTime"),
    [("r-" + "0123456789" * 25, "summarize-the-quarterly-report", Decimal("12345.678901"), 1_234_567, 5_665_364, datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=1))],
)  # fmt: skip


CALLS = Result(
    ("start_time", "feature", "user_id", "provider", "model", "input_tokens", "output_tokens", "cost_usd", "price_status", "attempts", "outcome", "trace_id"),
    ("DateTime64(6)", "String", "Nullable(String)", "String", "String", "UInt64", "UInt64", "Nullable(Decimal(18, 12))", "String", "UInt8", "String", "String"),
    [
        (datetime(2026, 3, 1, 12, 0, 1, 250_000, tzinfo=UTC), "summarize", "ada", "openai", "gpt-4.1-2025-04-14", 1_234_567, 5_664, Decimal("2.514446"), "priced", 1, "completed", "0af7651916cd43dd8448eb211c80319c"),
        (datetime(2026, 3, 1, 12, 0, 2, tzinfo=UTC), "chat", None, "anthropic", "claude-haiku-4-5", 25, 8, Decimal("0.000065"), "priced", 2, "completed", "0af7651916cd43dd8448eb211c80319c"),
        (datetime(2026, 3, 1, 12, 0, 3, tzinfo=UTC), "chat", "bob", "openai", "no-such-model", 25, 8, None, "no_price", 1, "failed", "0af7651916cd43dd8448eb211c80319c"),
    ],
)  # fmt: skip


@pytest.mark.parametrize("width", [30, 60, 80, 100, 120, 200, 400])
def test_a_table_fits_its_terminal_and_never_cuts_a_number(width: int):
    columns, left_out = fitting(columns_of(TABLE), width)
    assert sum(column.width for column in columns) + 2 * (len(columns) - 1) <= width
    assert sorted([*(column.name for column in columns), *left_out]) == sorted(TABLE.columns)
    cells = {column.name: column.cells[0] for column in columns}
    whole = {"total_cost_usd": "$12,345.68", "calls": "1,234,567", "tokens": "5,665,364"}
    assert "total_cost_usd" in cells or width < 32, "the amount is what is asked for"
    assert all(cells[name] == whole[name] for name in whole if name in cells)
    assert cells["request_id"].startswith("r-01234")
    assert cells["request_id"].endswith("456789"), "a long name loses its middle"


def test_amounts_stand_with_their_points_below_each_other():
    amounts = Result(
        ("x_usd",), ("Decimal(18, 12)",), [(Decimal(each),) for each in ("1234.5", "0.0123", "0.000012345", "-3")]
    )
    [column] = columns_of(amounts)
    assert column.cells == ["$1,234.50     ", "$0.0123   ", "$0.0000123", "-$3.00     "]


def test_a_table_that_is_piped_is_whole():
    columns, left_out = fitting(columns_of(TABLE), None)
    assert (columns[0].width, left_out) == (252, [])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [80, 100, 120, 200, None])
def test_what_a_terminal_shows(width: int | None, monkeypatch: pytest.MonkeyPatch):
    """Golden files are in tests/data/tables; `UPDATE_GOLDEN=1 pytest tests/test_spend.py` rewrites them: check the diff."""
    shown = Terminal() if width else io.StringIO()
    monkeypatch.setenv("COLUMNS", str(width or 80))
    monkeypatch.setattr(sys, "stdout", shown)
    show(TABLE, "A request with a long id", json_output=False)
    show(CALLS, "Calls of request req-0036", json_output=False)
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())
    golden = Path(__file__).parent / f"data/tables/{width or 'piped'}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def test_a_wide_table_is_whole_on_a_narrow_terminal(spring: None, monkeypatch: pytest.MonkeyPatch):
    shown = Terminal()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", shown)
    with click.Context(main, info_name="spanledger") as context:
        context.meta["spanledger_clickhouse.cli.output.columns"] = ("*",)
        show(CALLS, "Calls", json_output=False)
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())
    assert "1,234,567" in text
    assert "0af7651916cd43dd8448eb211c80319c" in text
    assert "$0.000065" in text


def test_columns_are_chosen_by_name(spring: None):
    words = ["spend", "--month", "2026-03", "--by", "feature", "--columns"]
    done = CliRunner().invoke(main, [*words, "calls,feature"])
    assert [line.split() for line in done.stdout.splitlines()[1:4]] == [
        ["calls", "feature"],
        ["2", "chat"],
        ["1", "search"],
    ]
    done = CliRunner().invoke(main, [*words, "planet"])
    assert done.exit_code == 2
    assert "no column 'planet'; there are: feature, total_cost_usd, calls" in done.output
