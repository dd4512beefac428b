"""The guard over budgets: what passes a threshold is told once, to everybody, and what cannot be told is kept."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from clickhouse_front import Front
from empty_ledger import empty_ledger
from redis_server import RedisServer
from spanledger.limits.store.redis import RedisStore
from spanledger_clickhouse.alerts import delivery_log, destinations, evaluate
from spanledger_clickhouse.alerts.destinations import Destination
from spanledger_clickhouse.budgets import status as budget_status
from spanledger_clickhouse.budgets import table as budget_table
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import DatabaseError, open_client, resolve_target
from spanledger_clickhouse.database.ledger import Ledger
from synthetic import call

pytestmark = [pytest.mark.clock, pytest.mark.services]

MARCH = datetime(2026, 3, 1, tzinfo=UTC)


class Receiver(ThreadingHTTPServer):
    """Takes alerts, and answers what it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        """Status of the next answers; then 200."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def bodies(self, path: str) -> list[Any]:
        return [json.loads(body) for where, _, body in self.got if where == f"/{path}"]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.server.answers.pop(0) if self.server.answers else 200
        self.server.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch) -> Iterator[Receiver]:
    monkeypatch.setattr(destinations, "BACKOFF_SECONDS", 0.01)
    made = Receiver()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    where = empty_ledger(tmp_path / "chdb")
    with open_client(where) as client:
        client.command(f"USE `{where.database}`")
        yield Ledger(client, where)


_numbers = iter(range(10**9))


def spend(ledger: Ledger, at: datetime, usd: float | str, **columns: Any) -> None:
    columns = {"feature": "summarize", "user_id": "ada", **columns}
    row = call(start_time=at, span_id=f"{next(_numbers):016x}", cost_usd=Decimal(str(usd)), **columns)
    insert.insert(ledger.client, ledger.target, [tuple(row.values())])


def put(ledger: Ledger, name: str, usd: float, **fields: Any) -> None:
    budget_table.put(ledger, budget_table.parse_budget(name, **{"amount_usd": usd, "window": "month", **fields}))


def aged(ledger: Ledger, seconds: float, table: str = "budget_alerts", column: str = "at") -> None:
    """Time passes: all rows of a table are older."""
    rows = ledger.query(
        f"SELECT * REPLACE ({column} - toIntervalMillisecond({int(seconds * 1000)}) AS {column}) FROM {table}"
    )
    ledger.client.command(f"TRUNCATE TABLE spanledger.{table}")
    ledger.client.insert(f"spanledger.{table}", rows.rows, column_names=rows.columns)


def put_long_ago(ledger: Ledger, name: str, usd: float, **fields: Any) -> None:
    put(ledger, name, usd, **fields)
    aged(ledger, 366 * 86_400, "budgets", "updated_at")


def texts(done: list[delivery_log.DeliveryResult]) -> list[str]:
    return [each.text for each in done]


# --- thresholds ---------------------------------------------------------------------------------------------------------


def test_a_month_of_ten_thousand_dollars_is_told_at_the_stated_amounts(ledger: Ledger, receiver: Receiver):
    """$425 a day: $8,000, $9,000, $9,500 and $10,000 are passed on the days on which they are passed, once each."""
    put(ledger, "everything", 10_000)
    slack = Destination("slack", receiver.url("slack"))
    told: dict[str, list[str]] = {}
    for day in range(31):
        at = MARCH + timedelta(days=day, hours=12)
        spend(ledger, at, 425, feature=("summarize", "chat")[day % 2], user_id=f"user-{day % 3}")
        for minute in (1, 2):  # two looks
            done = evaluate.evaluate(ledger, at + timedelta(minutes=minute), [slack])
            if done:
                told.setdefault(f"{at:%d}", []).extend(texts(done))
    spent = {day: 425 * int(day) for day in told}
    assert spent == {"19": 8075, "22": 9350, "23": 9775, "24": 10_200}
    assert [len(each) for each in told.values()] == [1] * 4
    assert told["19"][0].startswith(
        "Budget everything: 80% of $10,000.00 for the month is spent ($8,075.00); at the current burn rate"
    )
    assert len(receiver.bodies("slack")) == 4
    assert "*Budget everything: 102% of $10,000.00" in receiver.bodies("slack")[-1]["blocks"][0]["text"]["text"]
    assert evaluate.evaluate(ledger, MARCH + timedelta(days=31, hours=1), [slack]) == [], "April begins at nothing"


def test_the_payload_has_what_whoever_is_on_call_wants_to_know(ledger: Ledger, receiver: Receiver):
    put(ledger, "free summaries", 100, scope={"feature": "summarize", "tier": "free"}, action="block")
    at = MARCH + timedelta(days=9)
    spend(ledger, at, "70.5", user_id="ada", customer_tier="free")
    spend(ledger, at, "25.25", user_id="bob", customer_tier="free")
    spend(ledger, at, 500, user_id="eve", customer_tier="pro")
    where = [
        Destination("webhook", receiver.url("hook"), "key"),
        Destination("pagerduty", receiver.url("pd"), "routing"),
    ]
    evaluate.evaluate(ledger, at + timedelta(hours=1), where)
    [said] = receiver.bodies("hook")
    assert said | {"id": "", "text": "", "forecast_usd": ""} == {
        "version": 1, "id": "", "text": "", "type": "warning", "budget": "free summaries", "scope": {"feature": "summarize", "tier": "free"},
        "per": "", "value": "", "period": "month", "period_start": "2026-03-01T00:00:00+00:00", "period_end": "2026-04-01T00:00:00+00:00",
        "threshold": 0.95, "spent_usd": "95.750000", "budget_usd": "100.000000", "utilisation": 0.9575, "forecast_usd": "", "action": "block",
        "top_features": [{"feature": "summarize", "cost_usd": "95.750000"}],
        "top_users": [{"user": "ada", "cost_usd": "70.500000"}, {"user": "bob", "cost_usd": "25.250000"}],
    }  # fmt: skip
    assert Decimal(said["forecast_usd"]) > Decimal("95.75")
    _, headers, body = next(got for got in receiver.got if got[0] == "/hook")
    assert headers["x-spanledger-signature"] == f"sha256={hmac.new(b'key', body, hashlib.sha256).hexdigest()}"
    assert headers["idempotency-key"] == said["id"]
    [page] = receiver.bodies("pd")
    assert (page["routing_key"], page["event_action"]) == ("routing", "trigger")
    assert page["dedup_key"] == f"spanledger-{said['id']}"
    assert page["payload"]["severity"] == "error"
    assert page["payload"]["custom_details"] == said
    assert "routing" not in repr(where)
    assert "http" not in repr(where)


def test_each_user_is_told_of_by_the_hour_and_only_the_highest_threshold(ledger: Ledger, receiver: Receiver):
    put(ledger, "a user's hour", 1, per="user", window="hour")
    at = MARCH + timedelta(hours=5, minutes=10)
    for user, usd in (("ada", 1.2), ("bob", 0.85), ("eve", 0.5)):
        spend(ledger, at, usd, user_id=user)
    spend(ledger, at, 9, user_id=None)
    done = evaluate.evaluate(ledger, at + timedelta(minutes=5), [Destination("webhook", receiver.url("hook"))])
    said = {each["value"]: each for each in receiver.bodies("hook")}
    assert {user: each["threshold"] for user, each in said.items()} == {"ada": 1.0, "bob": 0.8}
    assert said["ada"]["text"].startswith("Budget a user's hour (user ada): 120% of $1.00 for the hour")
    assert said["ada"]["top_users"] == [{"user": "ada", "cost_usd": "1.200000"}]
    assert len(done) == 2
    spend(ledger, at + timedelta(minutes=6), 0.2, user_id="bob")
    evaluate.evaluate(ledger, at + timedelta(minutes=7), [Destination("webhook", receiver.url("hook"))])
    assert [each["threshold"] for each in receiver.bodies("hook")[2:]] == [1.0]


def test_a_day_is_that_of_the_budgets_clock(ledger: Ledger):
    put(ledger, "berlin", 10, window="day", zone="Europe/Berlin")
    spend(ledger, datetime(2026, 3, 1, 22, 59, tzinfo=UTC), 10)  # still the 1st there
    at = datetime(2026, 3, 1, 23, 1, tzinfo=UTC)
    assert next(iter(budget_status.statuses(ledger, at))).spent_usd == 0
    [standing] = budget_status.statuses(ledger, at - timedelta(minutes=1, microseconds=1))
    assert (standing.spent_usd, standing.utilisation) == (10, 1.0)


# --- delivery --------------------------------------------------------------------------------------------------------------


def test_a_message_is_tried_again_and_then_kept_and_sent_by_hand(
    ledger: Ledger, receiver: Receiver, monkeypatch, caplog
):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    hook = Destination("webhook", receiver.url("secret-path"))
    receiver.answers = [500, 429]
    [told] = evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    assert (told.delivery.attempts, told.delivery.error) == (3, "")
    spend(ledger, MARCH, 1)
    receiver.answers = [503] * 5
    [told] = evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    assert told.delivery == (told.delivery.__class__)(5, "webhook at 127.0.0.1: HTTP 503")
    assert "was not delivered after 5 attempts: webhook at 127.0.0.1: HTTP 503" in caplog.text
    assert "secret-path" not in caplog.text
    [letter] = delivery_log.dead_letters(ledger)
    assert letter[1:6] == (hook.name, "all", "", 5, "webhook at 127.0.0.1: HTTP 503")
    assert json.loads(letter[7])["threshold"] == 1.0
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == [], "given up: not tried at every look"
    [told], _ = delivery_log.retry(ledger, [hook])
    assert told.delivery.error == ""
    assert delivery_log.dead_letters(ledger) == []
    assert receiver.bodies("secret-path")[-1]["threshold"] == 1.0


def test_nobody_there_and_a_refusal_are_said(receiver: Receiver, monkeypatch, caplog):
    said = {"id": "x", "text": "t"}
    gone = Destination("webhook", "http://127.0.0.1:9/secret").deliver(said)
    assert gone.attempts == 5
    assert "secret" not in caplog.text
    assert gone.error == "webhook at 127.0.0.1: Connection refused"
    receiver.answers = [403]
    assert Destination("webhook", receiver.url("x")).deliver(said) == destinations.Delivery(
        1, "webhook at 127.0.0.1: HTTP 403"
    )


def test_what_a_guard_has_left_behind_when_it_died_is_told_by_another(ledger: Ledger, receiver: Receiver, monkeypatch):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    hook = Destination("webhook", receiver.url("hook"))
    monkeypatch.setattr(Destination, "deliver", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    monkeypatch.undo()
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == [], "it may yet come"
    aged(ledger, 901)
    assert len(evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])) == 1
    assert len(receiver.bodies("hook")) == 1
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == []


def test_what_was_given_up_is_tried_again_after_a_while(ledger: Ledger, receiver: Receiver):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    hook = Destination("webhook", receiver.url("hook"))
    receiver.answers = [403]
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])[0].delivery.error
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == []
    aged(ledger, 121)
    [told] = evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    assert told.delivery.error == ""
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == []


def test_it_is_tried_again_ever_more_seldom_for_a_day(ledger: Ledger, receiver: Receiver):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    hook = Destination("webhook", receiver.url("hook"))
    tried: list[int] = []
    minute = 0
    for wait in (0, 1, 1, 2, 2, 4, 4, 8, 8, 512, 512, 720, 720, 720):
        minute += wait
        if wait:
            aged(ledger, wait * 60 + 0.5)
        receiver.answers = [403]
        if evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]):
            tried.append(minute)
    assert tried == [0, 2, 6, 14, 30, 542, 1054], "and not after a day"
    [letter] = delivery_log.dead_letters(ledger)
    assert (letter[4], letter[5]) == (7, "webhook at 127.0.0.1: HTTP 403")


def test_a_guard_that_dies_while_it_tries_again_leaves_it_to_others(ledger: Ledger, receiver: Receiver, monkeypatch):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    hook = Destination("webhook", receiver.url("hook"))
    receiver.answers = [403]
    evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    aged(ledger, 121)
    monkeypatch.setattr(Destination, "deliver", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    monkeypatch.undo()
    aged(ledger, 600)
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == [], "it may be at it"
    aged(ledger, 301)
    assert [each.delivery.error for each in evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])] == [""]


def test_what_a_dead_guard_had_for_an_address_that_is_gone_is_a_dead_letter(
    ledger: Ledger, receiver: Receiver, monkeypatch
):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    monkeypatch.setattr(Destination, "deliver", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [Destination("slack", receiver.url("old"))])
    monkeypatch.undo()
    assert delivery_log.dead_letters(ledger) == []
    aged(ledger, 901)
    [letter] = delivery_log.dead_letters(ledger)
    assert letter[5] == "the guard that claimed it stopped before sending"
    [told], _ = delivery_log.retry(ledger, [Destination("slack", receiver.url("new"))])
    assert told.delivery.error == ""
    assert delivery_log.dead_letters(ledger) == []


def test_dead_letters_can_be_dismissed(ledger: Ledger, receiver: Receiver):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    hook = Destination("webhook", receiver.url("hook"))
    receiver.answers = [403]
    evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    assert (delivery_log.dismiss(ledger), delivery_log.dismiss(ledger), delivery_log.dead_letters(ledger)) == (1, 0, [])
    aged(ledger, 3600)
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == []


def test_many_letters_to_a_dead_address_are_not_waited_for(ledger: Ledger, receiver: Receiver):
    put(ledger, "u", 1, per="user")
    for number in range(20):
        spend(ledger, MARCH, 1, user_id=f"u{number}")
    hook = Destination("webhook", receiver.url("hook"))
    receiver.answers = [400] * 100
    evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    before = len(receiver.got)
    done, _ = delivery_log.retry(ledger, [hook])
    assert (len(done), len(receiver.got) - before < 20) == (20, True)


def test_an_alert_does_not_wait_for_who_spent_it(ledger: Ledger, receiver: Receiver, monkeypatch, caplog):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)

    def too_much(*_: Any, **named: Any) -> Any:
        if named.get("include_unattributed"):
            raise DatabaseError("too much memory")
        return [("", Decimal(9))]

    monkeypatch.setattr(budget_status, "spending", too_much)
    [told] = evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [Destination("webhook", receiver.url("hook"))])
    assert told.delivery.error == ""
    assert receiver.bodies("hook")[0]["top_users"] == []
    assert "does not list the top user values: too much memory" in caplog.text


def test_what_nobody_is_named_for_is_among_the_dearest(ledger: Ledger, receiver: Receiver):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9, feature=None, user_id=None)
    spend(ledger, MARCH, 0.5)
    spend(ledger, MARCH + timedelta(hours=2), 100)  # after the look
    where = [Destination("webhook", receiver.url("hook")), Destination("slack", receiver.url("slack"))]
    evaluate.evaluate(ledger, MARCH + timedelta(hours=1), where)
    [said] = receiver.bodies("hook")
    assert said["top_features"] == [
        {"feature": None, "cost_usd": "9.000000"},
        {"feature": "summarize", "cost_usd": "0.500000"},
    ]
    assert said["top_users"] == [{"user": None, "cost_usd": "9.000000"}, {"user": "ada", "cost_usd": "0.500000"}]
    assert "Users: unattributed $9.00, ada $0.5000" in receiver.bodies("slack")[0]["blocks"][0]["text"]["text"]


def test_letters_of_an_address_that_is_gone_go_to_another_of_its_kind(ledger: Ledger, receiver: Receiver):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    receiver.answers = [404]
    evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [Destination("slack", receiver.url("old"))])
    assert delivery_log.retry(ledger, [Destination("webhook", receiver.url("hook"))]) == ([], 1)
    [told], nowhere = delivery_log.retry(ledger, [Destination("slack", receiver.url("new"))])
    assert (told.delivery.error, nowhere) == ("", 0)
    assert delivery_log.dead_letters(ledger) == []


def test_where_many_fail_the_rest_is_not_waited_for(ledger: Ledger, receiver: Receiver):
    put(ledger, "u", 1, per="user")
    for number in range(20):
        spend(ledger, MARCH, 1, user_id=f"u{number}")
    receiver.answers = [400] * 100
    done = evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [Destination("webhook", receiver.url("hook"))])
    assert len(done) == 20
    assert len(receiver.got) < 20
    assert sum("skipped" in each.delivery.error for each in done) == 20 - len(receiver.got)


def test_an_address_that_answers_without_end_is_not_read(ledger: Ledger, monkeypatch):
    server = socket.create_server(("127.0.0.1", 0))

    def dribble() -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                connection.sendall(b"1\r\nx\r\n")
                time.sleep(0.1)

    dribbling = threading.Thread(target=dribble, daemon=True)
    dribbling.start()
    began = time.monotonic()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    assert Destination("webhook", url).deliver({"id": "x"}).error == ""
    assert time.monotonic() - began < 5
    dribbling.join(10)
    server.close()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    assert "webhook at" in Destination("webhook", "https://127.0.0.1:9/").deliver({"id": "x"}).error


def test_what_is_passed_at_the_end_of_a_period_is_told_after_it(ledger: Ledger, receiver: Receiver):
    put_long_ago(ledger, "hourly", 1, window="hour")
    hook = [Destination("webhook", receiver.url("hook"))]
    hour = MARCH + timedelta(hours=6)
    assert evaluate.evaluate(ledger, hour - timedelta(minutes=15), hook) == []
    spend(ledger, hour - timedelta(minutes=10), 5)
    [told] = evaluate.evaluate(ledger, hour + timedelta(minutes=45), hook)  # an hour later: cron
    assert told.text == "Budget hourly: 500% of $1.00 for the hour is spent ($5.00)"
    assert evaluate.evaluate(ledger, hour + timedelta(minutes=46), hook) == []


def test_what_was_spent_before_a_budget_was_set_is_no_news(ledger: Ledger):
    put(ledger, "daily", 1, window="day")
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    spend(ledger, today - timedelta(minutes=1), 5)
    assert evaluate.evaluate(ledger, today + timedelta(minutes=5), []) == []


def test_a_raised_budget_is_told_of_again(ledger: Ledger, receiver: Receiver):
    hook = [Destination("webhook", receiver.url("hook"))]
    put(ledger, "all", 100)
    spend(ledger, MARCH, 101)
    assert len(evaluate.evaluate(ledger, MARCH + timedelta(hours=1), hook)) == 1
    put(ledger, "all", 200)
    spend(ledger, MARCH, 100)
    assert texts(evaluate.evaluate(ledger, MARCH + timedelta(hours=1), hook))[0].startswith(
        "Budget all: 100% of $200.00"
    )


def test_names_of_strangers_stay_in_their_line(ledger: Ledger, receiver: Receiver):
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


TWO = """
import sys
from datetime import datetime, UTC
from spanledger_clickhouse.alerts import evaluate as watch
from spanledger_clickhouse.alerts.destinations import Destination
from spanledger_clickhouse.session import open_ledger
with open_ledger(dsn=sys.argv[1], take_in=False) as ledger:
    print("ready", flush=True)
    sys.stdin.readline()
    watch.evaluate(ledger, datetime(2026, 3, 2, tzinfo=UTC), [Destination("webhook", sys.argv[2])])
"""


def test_of_several_guards_one_tells(tmp_path: Path, receiver: Receiver):
    empty_ledger(tmp_path / "chdb")
    front = Front(str(tmp_path / "chdb"))
    threading.Thread(target=front.serve_forever, daemon=True).start()
    dsn = f"http://127.0.0.1:{front.server_port}/spanledger"
    where = resolve_target(dsn)
    try:
        with open_client(where) as client:
            client.database = where.database
            ledger = Ledger(client, where)
            for number in range(5):
                put(ledger, f"budget {number}", 10)
            spend(ledger, MARCH, 9.2)
        words = [sys.executable, "-c", TWO, dsn, receiver.url("hook")]
        guards = [
            subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            for _ in range(3)
        ]
        for each in guards:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in guards:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        for each in guards:
            each.communicate(timeout=60)
            assert each.returncode == 0
    finally:
        front.shutdown()
        front.server_close()
        front.session.close()
    assert sorted(each["budget"] for each in receiver.bodies("hook")) == [f"budget {number}" for number in range(5)]


def test_a_look_that_tells_nobody_keeps_nobody_from_being_told(ledger: Ledger, receiver: Receiver):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    [told] = evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [])
    assert told.text.startswith("Budget all: 90% of $10.00")
    assert len(evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [])) == 1
    assert (
        len(evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [Destination("webhook", receiver.url("hook"))])) == 1
    )
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), []) == [], "it is told"


# --- the command -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path, receiver: Receiver, monkeypatch) -> None:
    monkeypatch.setenv("SPANLEDGER_DSN", empty_ledger(tmp_path / "chdb").dsn)
    monkeypatch.setenv("SPANLEDGER_SLACK_WEBHOOK", receiver.url("slack"))
    monkeypatch.setenv("SPANLEDGER_ALERT_WEBHOOK", f"{receiver.url('one')} {receiver.url('two')}")


def run(*words: str) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_guard_as_a_command(settings, receiver: Receiver, tmp_path: Path):
    assert run("guard", "--test").count("delivered") == 3
    assert {each["type"] for each in receiver.bodies("one")} == {"test"}
    run("budget", "set", "all", "10")
    where = resolve_target()
    now = datetime.now(UTC)
    with open_client(where) as client:
        spend(Ledger(client, where), now.replace(day=1, hour=0, minute=0, second=0), "9.5")
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
    assert [text.partition("%")[0] for text in month["told"]] == ["95"]
    assert "10 USD a month, global" in run("budget", "history", "all")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--retry",), "--retry and --dismiss go with --dead"),
        (("--test",), "no destination is set: SPANLEDGER_SLACK_WEBHOOK"),
    ],
)
def test_what_makes_no_sense_is_said(words: tuple[str, ...], said: str):
    assert said in CliRunner().invoke(main, ["guard", *words]).output


def test_an_address_that_is_none_is_said_without_it(monkeypatch):
    monkeypatch.setenv("SPANLEDGER_SLACK_WEBHOOK", "hooks.slack.com/secret")
    result = CliRunner().invoke(main, ["guard", "--once"])
    assert "the address of slack is not a valid URL" in result.output
    assert "secret" not in result.output
    monkeypatch.setenv("SPANLEDGER_SLACK_WEBHOOK", "https://one/a,https://two/b")
    assert "separated by spaces" in CliRunner().invoke(main, ["guard", "--once"]).output


# --- Redis ------------------------------------------------------------------------------------------------------------------


def test_redis_learns_what_only_the_ledger_knows(settings, tmp_path: Path, monkeypatch):
    server = RedisServer(tmp_path)
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", server.url)
    try:
        said = run("budget", "set", "a user's day", "10", "--per", "user", "--period", "day", "--action", "block")
        assert "published 1 budgets to Redis" in said
        where = resolve_target()
        now = datetime.now(UTC)
        with open_client(where) as client:
            spend(Ledger(client, where), now.replace(hour=0, minute=0, second=0, microsecond=1), 6, user_id="ada")
            spend(Ledger(client, where), now.replace(hour=0, minute=0, second=0, microsecond=2), 1, user_id="bob")
        store = RedisStore(server.url, 2.0)
        store._client.flushall()
        run("guard", "--once")
        keys = [key.decode() for key in store._client.keys("*day*")]
        assert len(keys) == 1, "nobody is near the limit but ada"
        assert "ada" in keys[0]
        assert store.balance(keys[0].partition("}:")[2]) == (6 * 10**12, 0)
        assert '"a user\'s day"' in store.controls().published, "published anew"
    finally:
        server.stop()
