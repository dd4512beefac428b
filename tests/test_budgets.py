"""`spanledger budget`: set, listed, changed, removed; what makes no sense is said."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner, Result

from spanledger.limits.policy import Budget, Rule
from spanledger_clickhouse import budgets, schema, writer
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import connected, target
from spanledger_clickhouse.ledger import Ledger
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


def test_a_budget_says_what_becomes_of_calls():
    words = (
        "--scope",
        "feature=chat",
        "--scope",
        "tier=free",
        "--per",
        "user",
        "--period",
        "hour",
        "--zone",
        "Europe/Berlin",
    )
    said = run(
        "set", "u", "1.5", *words, "--action", "block", "--at", "0.9", "--fail-closed", "--threshold", "1"
    ).output
    assert (
        said
        == "budget u: 1.5 USD an hour, feature=chat, tier=free, each user, Europe/Berlin, block at 90%, fails closed\n"
    )
    [found] = json.loads(run("list", "--json").stdout)
    assert [found[key] for key in ("scope", "key", "per", "period", "action", "amount_usd", "spent_usd")] == [
        "feature+tier", "chat+free", "user", "hour", "block", "1.500000", "0.000000",
    ]  # fmt: skip
    assert run("feature", "chat", "--downgrade", "a=b", "--max-output-tokens", "500").exit_code == 0
    assert run("feature", "shop", "--critical").output == "feature shop: critical\n"
    where = target()
    with connected(where) as client:
        client.command(f"USE `{where.database}`")
        policy = budgets.read(Ledger(client, where))
    [budget] = policy.budgets
    assert budget == Budget(
        "u",
        "hour",
        15 * 10**11,
        {"feature": "chat", "tier": "free"},
        "user",
        ZoneInfo("Europe/Berlin"),
        True,
        "block",
        (1.0,),
        Decimal("0.9"),
    )
    assert policy.features == {"chat": Rule({"a": "b"}, max_output_tokens=500), "shop": Rule(critical=True)}
    assert run("feature", "shop", "--remove").exit_code == 0
    assert "set" in run("history", "u", "--periods", "1").output


def test_a_file_of_budgets_becomes_rows(tmp_path: Path):
    file = tmp_path / "limits.toml"
    file.write_text(
        '[[budget]]\nname = "a"\nwindow = "day"\namount_usd = 0.5\nscope = { user = "ada" }\naction = "downgrade"\n'
        '[features."*"]\npinned = true\n[request]\nmax_input_tokens = 9\n'
    )
    assert "1 budgets and the rules of 1 features" in run("import", str(file)).output
    [found] = json.loads(run("list", "--json").stdout)
    assert (found["scope"], found["key"], found["action"]) == ("user", "ada", "downgrade")
    file.write_text("[[budget]]\n")
    assert run("import", str(file)).output == f"Error: {file}, budget 1 has no name\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set", "x", "5", "--zone", "Mars"), "x: zone = 'Mars' is no time zone"),
        (("set", "x", "5", "--scope", "planet=earth"), "use tenant, tier, feature, user"),
        (("set", "x", "5", "--at", "99"), "use shares such as"),
        (("feature", "x"), "say what holds for it"),
        (("feature", "x", "--downgrade", "a"), "is not MODEL=CHEAPER"),
        (("publish",), "SPANLEDGER_REDIS_URL is not set"),
        (("history", "nobody"), "there is no budget 'nobody'"),
    ],
)
def test_what_makes_no_sense_of_the_rest_is_said_too(arguments: tuple[str, ...], said: str):
    result = run(*arguments)
    assert result.exit_code != 0
    assert said in result.output


def test_a_budget_of_each_user_is_tried_on_the_past_and_has_a_history(tmp_path: Path):
    now = datetime.now(UTC)
    noon = (now - timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
    rows = [
        call(span_id=f"{n:016x}", start_time=noon + timedelta(minutes=20 * n), user_id=user, cost_usd=Decimal(cost))
        for n, (user, cost) in enumerate([("ada", "0.9"), ("ada", "0.2"), ("bob", "0.1"), (None, "7")])
    ]
    where = target()
    with connected(where) as client:
        schema.migrate(client, where)
        writer.insert(client, where, [tuple(row.values()) for row in rows])
    run("set", "u", "1", "--per", "user", "--period", "day", "--zone", "Asia/Kolkata")
    [day] = json.loads(run("test", "u", "--days", "3", "--json").stdout)
    assert (day["user"], day["spent_usd"], day["passed 80%"], day["passed 100%"]) == (
        "ada", "1.100000000000", f"{noon:%Y-%m-%d} 17:30", f"{noon:%Y-%m-%d} 17:45",
    )  # fmt: skip
    days = json.loads(run("history", "u", "--periods", "3", "--json").stdout)
    assert [(each["day"], each["user"], each["spent_usd"]) for each in days if each["user"]] == [
        (f"{noon:%Y-%m-%d}", "ada", "1.100000000000")
    ]
