"""`spanledger budget`: set, listed, changed, removed; what makes no sense is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from spanledger_clickhouse.cli import main


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
