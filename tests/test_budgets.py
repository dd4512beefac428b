"""`spanledger budget`: set, listed, changed, removed; what makes no sense is said."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from spanledger_clickhouse import schema, writer
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import connected, target
from synthetic import call


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["budget", *arguments])


@pytest.fixture(autouse=True)
def _ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANLEDGER_DSN", f"chdb://{tmp_path / 'chdb'}")


def test_a_budget_is_set_changed_and_removed():
    assert "10,000 USD a month, global" in run("set", "all", "10000").output
    assert run("set", "ada", "5", "--scope", "user", "--key", "ada", "--period", "day").exit_code == 0
    assert run("set", "all", "500.5").exit_code == 0
    found = {each["name"]: each for each in json.loads(run("list", "--json").stdout)}
    assert found["all"]["amount_usd"] == "500.500000"
    assert (found["ada"]["scope"], found["ada"]["key"], found["ada"]["period"]) == ("user", "ada", "day")
    assert run("list", "--as-of", "2026-03-01").exit_code == 0
    assert run("remove", "ada").exit_code == 0
    assert "ada" not in run("list", "--json").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set", "x", "nothing"), "is no amount of dollars above zero"),
        (("set", "x", "-5"), "No such option"),
        (("set", "x", "0"), "is no amount of dollars above zero"),
        (("set", "x", "nan"), "is no amount of dollars above zero"),
        (("set", "x", "5", "--scope", "user"), "--key says which user"),
        (("set", "x", "5", "--key", "ada"), "a global budget has no --key"),
        (("remove", "nobody"), "there is no budget 'nobody'"),
    ],
)
def test_what_makes_no_sense_is_said(arguments: tuple[str, ...], said: str):
    result = run(*arguments)
    assert result.exit_code != 0
    assert said in result.output


def test_a_budget_is_tried_on_the_past(tmp_path: Path):
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    noon = (now - timedelta(days=2)).replace(hour=12)
    rows = [
        call(
            span_id=f"{n:016x}",
            start_time=noon + timedelta(hours=n),
            feature="chat",
            user_id="ada",
            cost_usd=Decimal(3),
        )
        for n in range(4)
    ] + [call(span_id="f" * 16, start_time=noon, feature="other", user_id="bob", cost_usd=Decimal(90))]
    where = target(f"chdb://{tmp_path / 'chdb'}")
    with connected(where) as client:
        schema.migrate(client, where)
        writer.insert(client, where, [tuple(row.values()) for row in rows])
    run(
        "set",
        "chat",
        "10",
        "--scope",
        "feature",
        "--key",
        "chat",
        "--period",
        "day",
        "--threshold",
        "1",
        "--threshold",
        "0.5",
    )
    [day] = json.loads(run("test", "chat", "--days", "5", "--json").stdout)
    assert day == {
        "day": f"{noon:%Y-%m-%d}", "spent_usd": "12.000000000000", "used_share": 1.2,
        "passed 50%": f"{noon:%Y-%m-%d} 13:00", "passed 100%": f"{noon:%Y-%m-%d} 15:00",
    }  # fmt: skip
    [day] = json.loads(run("test", "chat", "--amount", "20", "--json").stdout)
    assert (day["passed 50%"], day["passed 100%"]) == (f"{noon:%Y-%m-%d} 15:00", None)
    run("set", "all", "1000")
    assert sum(Decimal(row["spent_usd"]) for row in json.loads(run("test", "all", "--json").stdout)) == 102
    assert "there is no budget 'nobody'" in run("test", "nobody").output
