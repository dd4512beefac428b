"""The alert daemon: each crossed threshold alerts once, with its spend and top spenders; its command; its Redis."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from alert_receiver import MARCH, Receiver, open_ledger_of_alerts, put, put_long_ago, spend, texts
from empty_ledger import empty_ledger
from redis_server import RedisServer
from spanledger.limits.store.redis import RedisStore
from spanledger_clickhouse.alerts import evaluate
from spanledger_clickhouse.alerts.destinations import Destination
from spanledger_clickhouse.budgets import status as budget_status
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database.connection import DatabaseError, open_client, resolve_target
from spanledger_clickhouse.database.ledger import Ledger

pytestmark = [pytest.mark.clock, pytest.mark.services]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger_of_alerts(tmp_path / "chdb") as ledger:
        yield ledger


def test_a_monthly_budget_alerts_at_its_thresholds(ledger: Ledger, receiver: Receiver):
    """$425 a day: one alert a threshold, on the day on which it is crossed."""
    put(ledger, "everything", 10_000)
    slack = Destination("slack", receiver.url("slack"))
    messages: dict[str, list[str]] = {}
    for day in range(31):
        at = MARCH + timedelta(days=day, hours=12)
        spend(ledger, at, 425, feature=("summarize", "chat")[day % 2], user_id=f"user-{day % 3}")
        for minute in (1, 2):  # two evaluations
            results = evaluate.evaluate(ledger, at + timedelta(minutes=minute), [slack])
            if results:
                messages.setdefault(f"{at:%d}", []).extend(texts(results))
    spent = {day: 425 * int(day) for day in messages}
    assert spent == {"19": 8075, "22": 9350, "23": 9775, "24": 10_200}
    assert [len(alerts) for alerts in messages.values()] == [1] * 4
    assert messages["19"][0].startswith(
        "Budget everything: 80% of $10,000.00 for the month is spent ($8,075.00); at the current burn rate"
    )
    assert len(receiver.bodies("slack")) == 4
    assert "*Budget everything: 102% of $10,000.00" in receiver.bodies("slack")[-1]["blocks"][0]["text"]["text"]
    assert evaluate.evaluate(ledger, MARCH + timedelta(days=31, hours=1), [slack]) == [], "April starts at zero"


def test_a_payload_names_budget_spend_and_top_spenders(ledger: Ledger, receiver: Receiver):
    put(ledger, "free summaries", 100, scope={"feature": "summarize", "tier": "free"}, action="block")
    at = MARCH + timedelta(days=9)
    spend(ledger, at, "70.5", user_id="ada", customer_tier="free")
    spend(ledger, at, "25.25", user_id="bob", customer_tier="free")
    spend(ledger, at, 500, user_id="eve", customer_tier="pro")
    hooks = [
        Destination("webhook", receiver.url("hook"), "key"),
        Destination("pagerduty", receiver.url("pd"), "routing"),
    ]
    evaluate.evaluate(ledger, at + timedelta(hours=1), hooks)
    [payload] = receiver.bodies("hook")
    assert payload | {"id": "", "text": "", "forecast_usd": ""} == {
        "version": 1, "id": "", "text": "", "type": "warning", "budget": "free summaries", "scope": {"feature": "summarize", "tier": "free"},
        "per": "", "value": "", "period": "month", "period_start": "2026-03-01T00:00:00+00:00", "period_end": "2026-04-01T00:00:00+00:00",
        "threshold": 0.95, "spent_usd": "95.750000", "budget_usd": "100.000000", "utilisation": 0.9575, "forecast_usd": "", "action": "block",
        "top_features": [{"feature": "summarize", "cost_usd": "95.750000"}],
        "top_users": [{"user": "ada", "cost_usd": "70.500000"}, {"user": "bob", "cost_usd": "25.250000"}],
    }  # fmt: skip
    assert Decimal(payload["forecast_usd"]) > Decimal("95.75")
    _, headers, body = next(request for request in receiver.got if request[0] == "/hook")
    assert headers["x-spanledger-signature"] == f"sha256={hmac.new(b'key', body, hashlib.sha256).hexdigest()}"
    assert headers["idempotency-key"] == payload["id"]
    [page] = receiver.bodies("pd")
    assert (page["routing_key"], page["event_action"]) == ("routing", "trigger")
    assert page["dedup_key"] == f"spanledger-{payload['id']}"
    assert page["payload"]["severity"] == "error"
    assert page["payload"]["custom_details"] == payload
    assert "routing" not in repr(hooks)
    assert "http" not in repr(hooks)


def test_a_user_budget_alerts_each_hour_at_the_highest_threshold_only(ledger: Ledger, receiver: Receiver):
    put(ledger, "a user's hour", 1, per="user", window="hour")
    at = MARCH + timedelta(hours=5, minutes=10)
    for user, usd in (("ada", 1.2), ("bob", 0.85), ("eve", 0.5)):
        spend(ledger, at, usd, user_id=user)
    spend(ledger, at, 9, user_id=None)
    results = evaluate.evaluate(ledger, at + timedelta(minutes=5), [Destination("webhook", receiver.url("hook"))])
    alerts = {alert["value"]: alert for alert in receiver.bodies("hook")}
    assert {user: alert["threshold"] for user, alert in alerts.items()} == {"ada": 1.0, "bob": 0.8}
    assert alerts["ada"]["text"].startswith("Budget a user's hour (user ada): 120% of $1.00 for the hour")
    assert alerts["ada"]["top_users"] == [{"user": "ada", "cost_usd": "1.200000"}]
    assert len(results) == 2
    spend(ledger, at + timedelta(minutes=6), 0.2, user_id="bob")
    evaluate.evaluate(ledger, at + timedelta(minutes=7), [Destination("webhook", receiver.url("hook"))])
    assert [alert["threshold"] for alert in receiver.bodies("hook")[2:]] == [1.0]


def test_a_day_is_one_of_the_budgets_time_zone(ledger: Ledger):
    put(ledger, "berlin", 10, window="day", zone="Europe/Berlin")
    spend(ledger, datetime(2026, 3, 1, 22, 59, tzinfo=UTC), 10)  # still the 1st there
    at = datetime(2026, 3, 1, 23, 1, tzinfo=UTC)
    assert next(iter(budget_status.statuses(ledger, at))).spent_usd == 0
    [standing] = budget_status.statuses(ledger, at - timedelta(minutes=1, microseconds=1))
    assert (standing.spent_usd, standing.utilisation) == (10, 1.0)


def test_an_alert_is_sent_without_top_spenders_if_their_query_fails(
    ledger: Ledger, receiver: Receiver, monkeypatch, caplog
):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)

    def too_much(*_: Any, **named: Any) -> Any:
        if named.get("include_unattributed"):
            raise DatabaseError("too much memory")
        return [("", Decimal(9))]

    monkeypatch.setattr(budget_status, "spending", too_much)
    [result] = evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [Destination("webhook", receiver.url("hook"))])
    assert result.delivery.error == ""
    assert receiver.bodies("hook")[0]["top_users"] == []
    assert "does not list the top user values: too much memory" in caplog.text


def test_unattributed_spend_is_among_the_top_spenders(ledger: Ledger, receiver: Receiver):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9, feature=None, user_id=None)
    spend(ledger, MARCH, 0.5)
    spend(ledger, MARCH + timedelta(hours=2), 100)  # after the evaluation
    hooks = [Destination("webhook", receiver.url("hook")), Destination("slack", receiver.url("slack"))]
    evaluate.evaluate(ledger, MARCH + timedelta(hours=1), hooks)
    [payload] = receiver.bodies("hook")
    assert payload["top_features"] == [
        {"feature": None, "cost_usd": "9.000000"},
        {"feature": "summarize", "cost_usd": "0.500000"},
    ]
    assert payload["top_users"] == [{"user": None, "cost_usd": "9.000000"}, {"user": "ada", "cost_usd": "0.500000"}]
    assert "Users: unattributed $9.00, ada $0.5000" in receiver.bodies("slack")[0]["blocks"][0]["text"]["text"]


def test_a_threshold_crossed_at_the_end_of_a_period_alerts_after_it(ledger: Ledger, receiver: Receiver):
    put_long_ago(ledger, "hourly", 1, window="hour")
    hook = [Destination("webhook", receiver.url("hook"))]
    hour = MARCH + timedelta(hours=6)
    assert evaluate.evaluate(ledger, hour - timedelta(minutes=15), hook) == []
    spend(ledger, hour - timedelta(minutes=10), 5)
    [result] = evaluate.evaluate(ledger, hour + timedelta(minutes=45), hook)  # an hour later: cron
    assert result.text == "Budget hourly: 500% of $1.00 for the hour is spent ($5.00)"
    assert evaluate.evaluate(ledger, hour + timedelta(minutes=46), hook) == []


def test_spend_before_a_budget_was_set_does_not_alert(ledger: Ledger):
    put(ledger, "daily", 1, window="day")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    spend(ledger, today - timedelta(minutes=1), 5)
    assert evaluate.evaluate(ledger, today + timedelta(minutes=5), []) == []


def test_a_raised_budget_alerts_again(ledger: Ledger, receiver: Receiver):
    hook = [Destination("webhook", receiver.url("hook"))]
    put(ledger, "all", 100)
    spend(ledger, MARCH, 101)
    assert len(evaluate.evaluate(ledger, MARCH + timedelta(hours=1), hook)) == 1
    put(ledger, "all", 200)
    spend(ledger, MARCH, 100)
    assert texts(evaluate.evaluate(ledger, MARCH + timedelta(hours=1), hook))[0].startswith(
        "Budget all: 100% of $200.00"
    )


def test_a_user_name_cannot_inject_slack_markup(ledger: Ledger, receiver: Receiver):
    put(ledger, "u", 1, per="user")
    spend(ledger, MARCH, "0.996", user_id="<!channel>\n*all clear* https://evil.example/x" + "y" * 300)
    evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [Destination("slack", receiver.url("slack"))])
    [message] = receiver.bodies("slack")
    text = message["blocks"][0]["text"]
    assert text["verbatim"]
    assert "99% of $1.00" in text["text"]
    assert "&lt;!channel&gt; " in text["text"]
    assert text["text"].count("\n") == 2
    assert len(text["text"]) < 600


@pytest.fixture
def settings(tmp_path: Path, receiver: Receiver, monkeypatch) -> None:
    monkeypatch.setenv("SPANLEDGER_DSN", empty_ledger(tmp_path / "chdb").dsn)
    monkeypatch.setenv("SPANLEDGER_SLACK_WEBHOOK", receiver.url("slack"))
    monkeypatch.setenv("SPANLEDGER_ALERT_WEBHOOK", f"{receiver.url('one')} {receiver.url('two')}")


def run(*words: str) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_guard_as_a_command(settings, receiver: Receiver, tmp_path: Path):
    assert run("guard", "--test").count("delivered") == 3
    assert {alert["type"] for alert in receiver.bodies("one")} == {"test"}
    run("budget", "set", "all", "10")
    target = resolve_target()
    now = datetime.now(UTC)
    with open_client(target) as client:
        spend(Ledger(client, target), now.replace(day=1, hour=0, minute=0, second=0), "9.5")
    receiver.answers = [400]
    failed = CliRunner().invoke(main, ["guard", "--once"])
    assert failed.exit_code == 1
    assert failed.stdout.count("delivered") == 2
    assert "HTTP 400" in failed.stdout
    assert run("guard", "--once") == ""
    [dead] = json.loads(run("guard", "--dead", "--json"))
    assert (dead["budget"], dead["attempts"]) == ("all", 1)
    assert "1 budget alerts could not be delivered" in CliRunner().invoke(main, ["doctor"]).output
    assert "delivered" in run("guard", "--dead", "--retry")
    assert json.loads(run("guard", "--dead", "--json")) == []
    [month] = json.loads(run("budget", "history", "all", "--periods", "1", "--json"))
    assert month["spent_usd"] == "9.500000000000"
    assert [text.partition("%")[0] for text in month["alerts"]] == ["95"]
    assert "10 USD a month, global" in run("budget", "history", "all")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--retry",), "--retry and --dismiss go with --dead"),
        (("--test",), "no destination is set: SPANLEDGER_SLACK_WEBHOOK"),
    ],
)
def test_invalid_options_of_the_guard_are_rejected(words: tuple[str, ...], message: str):
    assert message in CliRunner().invoke(main, ["guard", *words]).output


def test_an_invalid_webhook_is_rejected_without_its_url(monkeypatch):
    monkeypatch.setenv("SPANLEDGER_SLACK_WEBHOOK", "hooks.slack.com/secret")
    result = CliRunner().invoke(main, ["guard", "--once"])
    assert "the address of slack is not a valid URL" in result.output
    assert "secret" not in result.output
    monkeypatch.setenv("SPANLEDGER_SLACK_WEBHOOK", "https://one/a,https://two/b")
    assert "separated by spaces" in CliRunner().invoke(main, ["guard", "--once"]).output


def test_the_guard_publishes_budgets_and_spend_to_redis(settings, tmp_path: Path, monkeypatch):
    server = RedisServer(tmp_path)
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", server.url)
    try:
        output = run("budget", "set", "a user's day", "10", "--per", "user", "--period", "day", "--action", "block")
        assert "published 1 budgets to Redis" in output
        target = resolve_target()
        now = datetime.now(UTC)
        with open_client(target) as client:
            spend(Ledger(client, target), now.replace(hour=0, minute=0, second=0, microsecond=1), 6, user_id="ada")
            spend(Ledger(client, target), now.replace(hour=0, minute=0, second=0, microsecond=2), 1, user_id="bob")
        store = RedisStore(server.url, 2.0)
        store._client.flushall()
        run("guard", "--once")
        keys = [key.decode() for key in store._client.keys("*day*")]
        assert len(keys) == 1, "only ada is near the budget"
        assert "ada" in keys[0]
        assert store.balance(keys[0].partition("}:")[2]) == (6 * 10**12, 0)
        assert '"a user\'s day"' in store.controls().published, "published anew"
    finally:
        server.stop()


def test_many_users_over_their_limit_are_one_message(ledger: Ledger, receiver: Receiver):
    put(ledger, "a user's day", 1, per="user", window="day")
    at = MARCH + timedelta(hours=5, minutes=10)
    for number in range(60):
        spend(ledger, at, 1 + number / 100, user_id=f"u{number:02}")
    hooks = [Destination("webhook", receiver.url("hook")), Destination("pagerduty", receiver.url("pd"), "key")]
    evaluate.evaluate(ledger, at + timedelta(minutes=5), hooks)
    [payload] = receiver.bodies("hook")
    assert payload["text"].startswith(
        "Budget a user's day: 60 users have reached 100% of $1.00 for the day: u59 $1.59, u58 $1.58,"
    )
    assert "and 55 more" in payload["text"]
    assert len(payload["top_users"]) == 5
    assert len(receiver.bodies("pd")) == 1
    evaluate.evaluate(ledger, at + timedelta(minutes=6), hooks)
    assert len(receiver.bodies("hook")) == 1, "each of them is alerted once"


def test_an_incident_is_resolved_when_its_period_is_over_or_its_budget_is_raised(ledger: Ledger, receiver: Receiver):
    put(ledger, "day", 1, window="day")
    put(ledger, "month", 1)
    at = MARCH + timedelta(days=3, hours=5)
    spend(ledger, at, 5, feature="summarize")
    pages = [Destination("pagerduty", receiver.url("pd"), "key")]
    evaluate.evaluate(ledger, at + timedelta(minutes=5), pages)
    put(ledger, "month", 100)
    evaluate.evaluate(ledger, at + timedelta(days=3), pages)
    evaluate.evaluate(ledger, at + timedelta(days=3, hours=1), pages)
    events = [(body["event_action"], body["dedup_key"]) for body in receiver.bodies("pd")]
    triggered = {key for action, key in events if action == "trigger"}
    assert len(triggered) == 2
    assert sorted(key for action, key in events if action == "resolve") == sorted(triggered)
    assert len(events) == 4, "each incident is resolved once"


def test_refused_calls_are_alerted_while_their_budget_is_below_its_limit(ledger: Ledger, receiver: Receiver):
    at = MARCH + timedelta(hours=5, minutes=20)
    refused = {
        "error_type": "BudgetExceeded",
        "outcome": "error",
        "attributes": {"spanledger.budget.refusal": "budget 'u' of user ada"},
    }
    for minute in range(7):
        spend(ledger, at + timedelta(minutes=minute), 0, user_id="ada", **refused)
    hooks = [Destination("webhook", receiver.url("hook"))]
    for minute in (10, 11):
        evaluate.evaluate(ledger, at + timedelta(minutes=minute), hooks)
    [payload] = receiver.bodies("hook")
    assert (payload["type"], payload["refused_calls"]) == ("refused", 7)
    assert payload["text"].startswith(
        "7 calls were refused in the last hour, of 1 caller (ada 7): budget 'u' of user ada"
    )


def test_refusals_that_differ_in_their_numbers_are_one_message_and_many_reasons_too(ledger: Ledger, receiver: Receiver):
    at = MARCH + timedelta(hours=5, minutes=20)

    def refuse(user: str, reason: str) -> None:
        attributes = {"spanledger.budget.refusal": reason}
        spend(ledger, at, 0, user_id=user, error_type="BudgetExceeded", outcome="error", attributes=attributes)

    for n in range(30):
        refuse(f"u{n}", f"the request may use {9000 + n:,} tokens of input, and 8,000 are allowed")
    slack = [Destination("slack", receiver.url("slack"))]
    for minute in (10, 11):
        evaluate.evaluate(ledger, at + timedelta(minutes=minute), slack)
    [message] = receiver.bodies("slack")
    assert "30 calls were refused in the last hour, of 30 callers" in str(message)
    for letter in "abcdefgh":
        refuse("ada", f"budget {letter} is used")
    evaluate.evaluate(ledger, at + timedelta(minutes=12), slack)
    _, message = receiver.bodies("slack")
    assert "38 calls were refused" in str(message)
    assert "9 reasons, most often the request may use" in str(message)


def test_a_message_says_what_changed_how_to_stop_it_and_where_to_look(
    ledger: Ledger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPANLEDGER_DASHBOARD_URL", "https://grafana.example/d/spanledger")
    put(ledger, "all", 10, window="day")
    at = MARCH + timedelta(days=3, hours=5)
    spend(ledger, at - timedelta(days=1, hours=1), 1, feature="summarize")
    spend(ledger, at - timedelta(hours=1), 12, feature="summarize")
    evaluate.evaluate(ledger, at, [Destination("slack", receiver.url("slack"))])
    [message] = receiver.bodies("slack")
    text = message["blocks"][1]["elements"][0]["text"]
    assert "Changed most: summarize $12.00, $1.00 at this point of the day before" in text
    assert "Stop it: spanledger stop feature=summarize" in text
    assert "Dashboard: https://grafana.example/d/spanledger" in text


def test_a_limit_that_is_crossed_again_after_it_was_resolved_alerts_again(ledger: Ledger, receiver: Receiver):
    put(ledger, "all", 100, window="day")
    at = MARCH + timedelta(days=3, hours=5)
    hooks = [Destination("webhook", receiver.url("hook"))]
    for minute, amount in ((1, 120), (3, -50), (5, 500)):
        spend(ledger, at + timedelta(minutes=minute), amount)
        evaluate.evaluate(ledger, at + timedelta(minutes=minute + 1), hooks)
        time.sleep(0.01)  # alerts are in order of their milliseconds
    assert [body["type"] for body in receiver.bodies("hook")] == ["exceeded", "resolved", "exceeded"]
