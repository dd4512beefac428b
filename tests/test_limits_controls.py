"""Stops and budgets from the command line, in force within seconds in every process that shares a Redis."""

from __future__ import annotations

import getpass
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

import spanledger
from conftest import Recorded
from empty_ledger import empty_ledger
from limited_calls import call_openai
from limiters import eventually
from redis_server import RedisServer
from spanledger import BudgetExceeded
from spanledger.limits import api
from spanledger.limits.store.redis import RedisStore
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from spanledger_clickhouse.demo.loopback_provider import Provider
from synthetic import call

pytestmark = pytest.mark.services


def test_a_stop_is_enforced_within_seconds_and_each_change_is_a_row(
    limited, ledger: Recorded, provider: Provider, own_redis: RedisServer, tmp_path: Path, monkeypatch
):
    target = empty_ledger(tmp_path / "chdb")
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", own_redis.url)
    monkeypatch.setenv("SPANLEDGER_DSN", target.dsn)
    limited("5")

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refused() -> bool:
        with spanledger.attribution(user="ada", feature="summarize"):
            try:
                call_openai(provider.url)
            except BudgetExceeded as error:
                return error.reason == "feature 'summarize' is stopped (spanledger resume feature=summarize)"
        return False

    assert not refused()
    assert run("stop") == "nothing is stopped\n"
    run("stop", "feature=summarize", "--reason", "loops")
    assert eventually(refused, 5)
    with spanledger.attribution(user="ada", feature="search"):
        call_openai(provider.url)
    listed = run("stop")
    assert all(word in listed for word in ("feature=summarize", getpass.getuser(), "loops")), listed
    run("resume", "feature=summarize")
    assert eventually(lambda: not refused(), 5)
    assert "is not stopped" in CliRunner().invoke(main, ["resume", "feature=summarize"]).output
    assert "is not DIMENSION=VALUE" in CliRunner().invoke(main, ["stop", "planet=x"]).output
    run("stop", "user=ada")
    own_redis.stop()
    assert (
        CliRunner().invoke(main, ["stop", "user=bob"]).output.strip()
        == "Error: nothing is stopped (user=bob): Redis does not answer: ConnectionError"
    )
    with open_client(target) as client:
        client.command(f"USE `{target.database}`")
        rows = client.query(
            "SELECT kind, dimension, key, reason, who LIKE '%@%' FROM limit_events ORDER BY at"
        ).result_rows
    assert rows == [
        ("stop", "feature", "summarize", "loops", 1),
        ("resume", "feature", "summarize", "", 1),
        ("stop", "user", "ada", "", 1),
    ]


def test_a_budget_from_the_command_line_is_enforced_within_seconds(
    ledger: Recorded, provider: Provider, redis: RedisServer, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", redis.url)
    monkeypatch.setenv("SPANLEDGER_DSN", empty_ledger(tmp_path / "chdb").dsn)
    api.reset()

    def outcome() -> str:
        with spanledger.attribution(user="ada", feature="summarize"):
            try:
                call_openai(provider.url)
            except BudgetExceeded as error:
                return error.reason
        return max(ledger.rows, key=lambda row: row["start_time"])["request_model"]

    def becomes(expected: str, *words: str) -> None:
        result = CliRunner().invoke(main, ["budget", *words])
        assert result.exit_code == 0, result.output
        end = time.monotonic() + 5
        while outcome() != expected:
            assert time.monotonic() < end, (expected, outcome())
            time.sleep(0.05)

    try:
        assert outcome() == "gpt-5.4-mini"
        becomes(
            "budget 'u': $0.000001 for the day is used up",
            *("set", "u", "0.000001", "--scope", "feature=summarize", "--per", "user", "--period", "day", "--action", "block"),
        )  # fmt: skip
        becomes("gpt-5.4-mini", "feature", "summarize", "--critical")
        becomes("budget 'u': $0.000001 for the day is used up", "feature", "summarize", "--remove")
        becomes("gpt-5.4-mini", "set", "u", "0.000001", "--per", "user", "--action", "downgrade")
        becomes("gpt-5.4-nano", "feature", "*", "--downgrade", "gpt-5.4-mini=gpt-5.4-nano")
        becomes("gpt-5.4-mini", "remove", "u")
        store = RedisStore(redis.url, 2.0)
        store.publish('{"budget": [{"name": "x"}]}')
        time.sleep(2.1)
        assert outcome() == "gpt-5.4-mini"
    finally:
        api.reset()


def test_a_stop_without_redis_is_an_error():
    assert "SPANLEDGER_REDIS_URL is not set" in CliRunner().invoke(main, ["stop", "feature=x"]).output


def test_a_name_that_no_call_has_is_not_stopped_without_force(
    own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    where = empty_ledger(tmp_path / "known")
    monkeypatch.setenv("SPANLEDGER_DSN", where.dsn)
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", own_redis.url)
    with open_client(where) as client:
        insert.insert(client, where, [tuple(call(start_time=datetime.now(UTC), feature="summarize").values())])
    refused = CliRunner().invoke(main, ["stop", "feature=sumarize"])
    assert refused.exit_code == 1
    assert "Did you mean feature=summarize?" in " ".join(refused.output.split())
    assert CliRunner().invoke(main, ["stop"]).stdout == "nothing is stopped\n"
    for words in (["feature=sumarize", "--force"], ["feature=summarize"]):
        assert CliRunner().invoke(main, ["stop", *words]).exit_code == 0
    assert json.loads(CliRunner().invoke(main, ["stop", "--json"]).stdout) == ["feature=sumarize", "feature=summarize"]
