"""`spanledger budget`: set, list, change, remove; invalid arguments are rejected."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner, Result

from empty_ledger import empty_ledger
from redis_server import RedisServer
from spanledger.context import baggage as baggage_attribution
from spanledger.limits.policy import Budget, Rule
from spanledger.limits.store.protocol import BudgetCounter
from spanledger.limits.store.redis import RedisStore
from spanledger_clickhouse.budgets import audit
from spanledger_clickhouse.budgets import status as budget_status
from spanledger_clickhouse.budgets import table as budget_table
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import DatabaseError, open_client, resolve_target
from spanledger_clickhouse.database.ledger import Ledger
from synthetic import call

pytestmark = [pytest.mark.clock, pytest.mark.services]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["budget", *arguments])


@pytest.fixture(autouse=True)
def _ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANLEDGER_DSN", empty_ledger(tmp_path / "chdb").dsn)


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
        (("set", "x", "nothing"), "is not a valid amount: give dollars above zero"),
        (("set", "x", "-5"), "No such option"),
        (("set", "x", "0"), "is not a valid amount: give dollars above zero"),
        (("set", "x", "nan"), "is not a valid amount: give dollars above zero"),
        (("set", "x", "5", "--scope", "user"), "--key gives the user"),
        (("set", "x", "5", "--key", "ada"), "--key does not apply to a global budget"),
        (("remove", "nobody"), "there is no budget 'nobody'"),
    ],
)
def test_invalid_arguments_are_rejected(arguments: tuple[str, ...], said: str):
    result = run(*arguments)
    assert result.exit_code != 0
    assert said in result.output


def test_budget_test_simulates_past_periods(tmp_path: Path):
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
    where = resolve_target(f"chdb://{tmp_path / 'chdb'}")
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])
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
        "day": f"{noon:%Y-%m-%d}", "spent_usd": "12.000000000000", "utilisation": 1.2,
        "crossed 50%": f"{noon:%Y-%m-%d} 13:00", "crossed 100%": f"{noon:%Y-%m-%d} 15:00",
    }  # fmt: skip
    [day] = json.loads(run("test", "chat", "--amount", "20", "--json").stdout)
    assert (day["crossed 50%"], day["crossed 100%"]) == (f"{noon:%Y-%m-%d} 15:00", None)
    run("set", "all", "1000")
    assert sum(Decimal(row["spent_usd"]) for row in json.loads(run("test", "all", "--json").stdout)) == 102
    assert "there is no budget 'nobody'" in run("test", "nobody").output


def test_a_budget_sets_its_action():
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
    where = resolve_target()
    with open_client(where) as client:
        client.command(f"USE `{where.database}`")
        policy = budget_table.read(Ledger(client, where))
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


def test_options_that_are_not_given_stay_unchanged():
    run(
        "set",
        "u",
        "10",
        "--scope",
        "feature=chat",
        "--per",
        "user",
        "--action",
        "block",
        "--at",
        "0.5",
        "--fail-closed",
        "--zone",
        "Asia/Tokyo",
    )
    said = run("set", "u", "12").output
    assert said == (
        "budget u: 12 USD a month, feature=chat, each user, Asia/Tokyo, block at 50%, fails closed "
        "(was: 10 USD a month, feature=chat, each user, Asia/Tokyo, block at 50%, fails closed)\n"
    )
    said = run(
        "set", "u", "12", "--action", "downgrade", "--fail-open", "--per", "all", "--scope", "global", "--zone", "UTC"
    ).output
    assert said.startswith("budget u: 12 USD a month, global, downgrade at 95% (was")
    assert run("set", "u", "12", "--action", "warn").output.startswith("budget u: 12 USD a month, global (was")
    assert "go with --action" in run("set", "u", "12", "--at", "0.5").output
    assert run("set", "u", "12").output == "budget u: 12 USD a month, global\n"


def test_a_user_in_a_scope_is_pseudonymized_as_on_rows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPANLEDGER_HASH_USER_ID", "s3cret")
    baggage_attribution._hashing_key.cache_clear()
    try:
        known = baggage_attribution.pseudonym("ada", b"s3cret")
        assert f"user={known}" in run("set", "a", "1", "--scope", "user=ada").output
        assert f"user={known}" in run("set", "b", "1", "--scope", f"user={known}").output
        assert "feature=ada" in run("set", "c", "1", "--scope", "feature=ada").output
    finally:
        baggage_attribution._hashing_key.cache_clear()


def test_the_list_shows_the_value_and_the_history_the_removal():
    run("set", "u", "10", "--scope", "feature=chat", "--per", "user")
    where = resolve_target()
    with open_client(where) as client:
        made = [
            call(start_time=datetime.now(UTC), span_id=f"{n:016x}", feature="chat", user_id=user, cost_usd=Decimal(n))
            for n, user in ((1, "ada"), (2, "bob"))
        ]
        insert.insert(client, where, [tuple(row.values()) for row in made])
    rows = json.loads(run("list", "--all", "--json").stdout)
    assert [(row["key"], row["value"], row["spent_usd"]) for row in rows] == [
        ("chat", "bob", "2.000000"),
        ("chat", "ada", "1.000000"),
    ]
    run("remove", "u")
    [_, removed] = json.loads(run("history", "u", "--json").stdout)
    assert removed["kind"] == "remove"
    assert "(removed)" in run("history", "u").output


# --- Redis ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisStore]:
    server = RedisServer(tmp_path)
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", server.url)
    yield RedisStore(server.url, 2.0)
    server.stop()


def test_another_ledger_does_not_replace_the_enforced_budgets(
    store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run("set", "all", "10000", "--action", "block")
    enforced = store.controls().published
    monkeypatch.setenv("SPANLEDGER_DSN", f"chdb://{tmp_path / 'laptop'}")
    program = """
import sys
from click.testing import CliRunner
from spanledger_clickhouse.cli import main
for words in (["budget", "set", "x", "5"], ["guard", "--once"], ["budget", "publish"], ["budget", "publish", "--take-over"]):
    found = CliRunner().invoke(main, words)
    print(found.exit_code, found.output.strip().replace("\\n", " "))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()  # one embedded ledger a process
    assert [line.partition(" ")[0] for line in found] == ["1", "1", "1", "0"]
    assert all("nothing was published: the budgets in Redis belong to another ledger" in line for line in found[:3])
    assert found[3] == "0 1 budgets are published"
    assert '"x"' in store.controls().published != enforced
    monkeypatch.setenv("SPANLEDGER_DSN", f"chdb://{tmp_path / 'chdb'}")
    assert "another ledger" in run("set", "all", "1").output
    assert "the budgets in Redis are not those of this ledger" in CliRunner().invoke(main, ["doctor"]).output


def test_spend_before_a_budget_was_set_counts_in_redis(store: RedisStore):
    where = resolve_target()
    run("set", "all", "10")
    with open_client(where) as client:
        made = [
            call(start_time=datetime.now(UTC), span_id=f"{n:016x}", user_id=user, cost_usd=Decimal(n))
            for n, user in ((1, "ada"), (4, "bob"))
        ]
        insert.insert(client, where, [tuple(row.values()) for row in made])
    run("set", "u", "10", "--per", "user", "--action", "block")

    def spent() -> dict[str, int]:
        found = [key.decode().partition("}:")[2] for key in store._client.keys("*")]
        return {
            key.split("\x1f")[0] + key.split("\x1f")[1]: store.balance(key)[0] // 10**12
            for key in found
            if "\x1f" in key
        }

    assert spent() == {"all": 5, "uada": 1, "ubob": 4}, "each of them, however far"
    store._client.flushall()
    assert run("publish").exit_code == 0
    assert spent() == {"all": 5, "uada": 1, "ubob": 4}


def test_a_change_is_published_even_if_its_audit_row_fails(store: RedisStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit, "insert", lambda *_: (_ for _ in ()).throw(DatabaseError("the disk is full")))
    result = run("set", "all", "5")
    assert result.exit_code == 1
    assert "the change was applied, but writing its audit row failed: the disk is full" in result.output
    assert '"all"' in store.controls().published


def test_stops_are_restored_after_redis_lost_its_data(store: RedisStore):
    main_run = CliRunner().invoke
    for words in (["stop", "feature=a"], ["stop", "feature=b"], ["resume", "feature=b"]):
        assert main_run(main, words).exit_code == 0
    run("set", "all", "5")
    store.resume("feature=a")  # without an audit row
    run("set", "all", "6")
    assert store.controls().stopped == frozenset(), "nothing was lost"
    store._client.flushall()
    assert main_run(main, ["guard", "--once"]).exit_code == 0
    assert store.controls().stopped == {"feature=a"}
    assert json.loads(main_run(main, ["stop", "--json"]).stdout) == ["feature=a"]


def test_a_cost_reported_after_reconciliation_counts_once(store: RedisStore):
    day = BudgetCounter("day", 10**13, 3600)
    store.reserve("a", [day], 5)
    store.reserve("b", [day], 5)
    store.raise_to([(day, 10**12)])
    assert store.balance("day")[0] == 10**12
    assert store.settle("a", [day], 5, 4 * 10**11, delayed=True) == [10**12], "the ledger had it"
    assert store.settle("b", [day], 5, 3 * 10**11) == [13 * 10**11], "this one is new"
    assert store.settle("c", [day], 0, 7 * 10**11, delayed=True) == [14 * 10**11], (
        "and of this one the ledger had a part"
    )
    assert store.settle("d", [day], 0, 0, delayed=True) == [14 * 10**11]
    assert store.balance("day") == (14 * 10**11, 0)


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
        (("set", "x", "5", "--zone", "Mars"), "budget 'x': zone = 'Mars' is not a valid time zone"),
        (("set", "x", "5", "--zone", "localtime"), "is not a valid time zone"),
        (("set", "x", "1000000"), "amount_usd = 1000000; use dollars"),
        (("set", "x", "0.0000019"), "more than six decimal places"),
        (("set", " ", "5"), "has no name"),
        (("set", "\udcff", "5"), "must be valid UTF-8 text"),
        (("feature", " ", "--pinned"), "FEATURE is empty"),
        (("list", "--as-of", "0001-01-01"), "has no calls that old"),
        (("set", "x", "5", "--scope", "planet=earth"), "use user, feature, tenant, tier"),
        (("set", "x", "5", "--action", "block", "--at", "99"), "use shares such as"),
        (("set", "x", "5", "--at", "0.5"), "go with --action"),
        (("set", "x", "5", "--scope", "user=a", "--scope", "user=b"), "is given twice"),
        (("set", "x", "5", "--scope", "user=a", "--key", "b"), "--key goes with"),
        (("feature", "x", "--pinned", "--downgrade", "a=b"), "which keep the model"),
        (("feature", "x", "--remove"), "there is no rule for 'x'"),
        (("feature", "x"), "give the options of the rule"),
        (("feature", "x", "--downgrade", "a"), "is not MODEL=CHEAPER"),
        (("publish",), "SPANLEDGER_REDIS_URL is not set"),
        (("history", "nobody"), "there is no budget 'nobody'"),
    ],
)
def test_invalid_arguments_of_other_commands_are_rejected(arguments: tuple[str, ...], said: str):
    result = run(*arguments)
    assert result.exit_code != 0
    assert said in result.output


def test_a_budget_per_user_has_a_simulation_and_a_history(tmp_path: Path):
    now = datetime.now(UTC)
    noon = (now - timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
    rows = [
        call(span_id=f"{n:016x}", start_time=noon + timedelta(minutes=20 * n), user_id=user, cost_usd=Decimal(cost))
        for n, (user, cost) in enumerate([("ada", "0.9"), ("ada", "0.2"), ("bob", "0.1"), (None, "7")])
    ]
    where = resolve_target()
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in rows])
    run("set", "u", "1", "--per", "user", "--period", "day", "--zone", "Asia/Kolkata")
    [day] = json.loads(run("test", "u", "--days", "3", "--json").stdout)
    assert (day["user"], day["spent_usd"], day["crossed 80%"], day["crossed 100%"]) == (
        "ada", "1.100000000000", f"{noon:%Y-%m-%d} 17:30", f"{noon:%Y-%m-%d} 17:45",
    )  # fmt: skip
    days = json.loads(run("history", "u", "--periods", "3", "--json").stdout)
    assert [(each["day"], each["user"], each["spent_usd"]) for each in days if each["user"]] == [
        (f"{noon:%Y-%m-%d}", "ada", "1.100000000000")
    ]


def spent(where, *rows: tuple[datetime, str, str]) -> None:
    made = [
        call(span_id=f"{n:016x}", start_time=at, user_id=user, cost_usd=Decimal(cost))
        for n, (at, user, cost) in enumerate(rows)
    ]
    with open_client(where) as client:
        insert.insert(client, where, [tuple(row.values()) for row in made])


def test_past_periods_are_exact_within_days_and_in_any_local_time_zone(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        midnight = (datetime.now(UTC) - timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        spent(
            resolve_target(),
            (midnight + timedelta(minutes=5), "ada", "0.1"),
            (midnight + timedelta(hours=9), "ada", "11"),
        )
        run("set", "u", "1", "--per", "user", "--period", "hour")
        run("set", "day", "20", "--period", "day")
        hours = json.loads(run("history", "u", "--periods", "60", "--json").stdout)
        assert {each["hour"]: each["spent_usd"] for each in hours if each["user"]} == {
            f"{midnight:%Y-%m-%d} 00:00": "0.100000000000", f"{midnight:%Y-%m-%d} 09:00": "11.000000000000",
        }  # fmt: skip
        [row] = json.loads(run("test", "day", "--days", "2", "--json").stdout)
        assert (row["day"], row["crossed 100%"]) == (f"{midnight:%Y-%m-%d}", None)
        CliRunner().invoke(main, ["guard", "--once"])
        periods = json.loads(run("history", "u", "--periods", "60", "--json").stdout)
        assert not [period for period in periods if period["alerts"]], "that hour is long over"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_first_hour_of_a_day_is_not_the_whole_day(monkeypatch: pytest.MonkeyPatch):
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    present = midnight + timedelta(hours=9)

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return present

    monkeypatch.setattr(budget_status, "datetime", Fixed)
    for until, source in ((timedelta(days=1), "llm_costs_users"), (timedelta(hours=1), "llm_calls AS c FINAL")):
        assert budget_status._source({"user"}, midnight, midnight + until)[0] == source
    earlier = present - timedelta(seconds=5)
    assert budget_status._source({"user"}, midnight, earlier, live=True)[0] == "llm_costs_users"


def test_a_budget_without_spend_in_its_period_is_forecast_at_its_burn_rate(monkeypatch):
    month = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)
    spent(resolve_target(), *[(month - timedelta(days=n), "ada", "10") for n in range(1, 11)])
    with open_client(resolve_target()) as client:
        client.command("USE spanledger")
        budget = budget_table.parse_budget("all", amount_usd=1000, window="month")
        [status] = budget_status.statuses(Ledger(client, resolve_target()), month, [budget])
    assert status.spent_usd == 0
    assert status.forecast is not None
    assert status.forecast.projected_usd == pytest.approx(10 * (31 - 0.5 / 24), rel=1e-9)


def test_a_budget_that_begins_within_a_day_is_crossed_by_its_own_spend():
    new_york = [(datetime(2026, 11, 1, 2, tzinfo=UTC), "ada", "500")]  # October there
    spent(
        resolve_target(), *new_york, *[(datetime(2026, 11, day, 20, tzinfo=UTC), "ada", "30") for day in range(2, 12)]
    )
    with open_client(resolve_target()) as client:
        client.command("USE spanledger")
        budget = budget_table.parse_budget("all", amount_usd=100, window="month", zone="America/New_York")
        [status] = budget_status.statuses(
            Ledger(client, resolve_target()), datetime(2026, 11, 12, tzinfo=UTC), [budget]
        )
    assert status.spent_usd == 300
    assert status.forecast is not None
    assert status.forecast.exhausted_at is not None
    assert datetime(2026, 11, 5, tzinfo=UTC) < status.forecast.exhausted_at < datetime(2026, 11, 6, tzinfo=UTC)


def test_an_hour_is_forecast_at_its_own_rate_without_a_band():
    at = datetime(2026, 3, 10, 10, 30, tzinfo=UTC)
    spent(resolve_target(), (at - timedelta(minutes=20), "ada", "1"), *[(at - timedelta(days=n), "ada", f"{n}") for n in range(1, 9)])  # fmt: skip
    with open_client(resolve_target()) as client:
        client.command("USE spanledger")
        budget = budget_table.parse_budget("all", amount_usd=10, window="hour")
        [status] = budget_status.statuses(Ledger(client, resolve_target()), at, [budget])
    assert status.forecast is not None
    assert status.forecast[:3] == pytest.approx((2, 2, 2), rel=1e-9)


def test_a_young_ledger_is_forecast_from_the_days_it_has():
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    spent(resolve_target(), *[(today - timedelta(days=n, hours=-3), "ada", "100") for n in (1, 2, 3)])
    run("set", "u", "10000", "--scope", "user=ada", "--per", "user")
    run("set", "all", "10000")
    found = {each["name"]: Decimal(each["projected_usd"]) for each in json.loads(run("list", "--json").stdout)}
    left = (today.replace(day=1) + timedelta(days=32)).replace(day=1) - datetime.now(UTC)
    in_month = sum(100 for n in (1, 2, 3) if (today - timedelta(days=n)).month == today.month)
    for projected in found.values():
        assert abs(projected - in_month - Decimal(left.total_seconds() / 864)) < 1


def test_an_invalid_row_is_named_and_other_budgets_stay_in_force():
    run("set", "good", "5")
    where = resolve_target()
    with open_client(where) as client:
        client.insert(
            f"`{where.database}`.budgets", [["bad", "week", Decimal(5)]], column_names=["name", "period", "amount_usd"]
        )
    assert [each["name"] for each in json.loads(run("list", "--json").stdout)] == ["good"]
    findings = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert any(
        "budget 'bad', budget 1: window = 'week'" in each["text"] for each in findings if each["status"] == "failure"
    )
    assert run("remove", "bad").exit_code == 0


def test_request_caps_of_a_file_apply_to_features_with_rules(tmp_path: Path):
    run("feature", "*", "--downgrade", "a=b")
    file = tmp_path / "limits.toml"
    file.write_text("[request]\nmax_input_tokens = 1000\n[features.chat]\npinned = true\n")
    assert run("import", str(file)).exit_code == 0
    where = resolve_target()
    with open_client(where) as client:
        client.command(f"USE `{where.database}`")
        features = budget_table.read(Ledger(client, where)).features
    assert features == {"*": Rule({"a": "b"}, max_input_tokens=1000), "chat": Rule(pinned=True, max_input_tokens=1000)}
