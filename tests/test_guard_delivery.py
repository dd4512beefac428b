"""Delivery of alerts: retries, dead letters, guards that end in between, destinations that fail."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from alert_receiver import MARCH, Receiver, aged, open_ledger_of_alerts, put, spend
from clickhouse_front import Front
from empty_ledger import empty_ledger
from spanledger_clickhouse.alerts import delivery_log, destinations, evaluate
from spanledger_clickhouse.alerts.destinations import Delivery, Destination
from spanledger_clickhouse.database.connection import open_client, resolve_target
from spanledger_clickhouse.database.ledger import Ledger

pytestmark = [pytest.mark.clock, pytest.mark.services]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger_of_alerts(tmp_path / "chdb") as ledger:
        yield ledger


def test_a_failed_alert_is_retried_kept_as_a_dead_letter_and_sent_on_request(
    ledger: Ledger, receiver: Receiver, monkeypatch, caplog
):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    hook = Destination("webhook", receiver.url("secret-path"))
    receiver.answers = [500, 429]
    [result] = evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    assert (result.delivery.attempts, result.delivery.error) == (3, "")
    spend(ledger, MARCH, 1)
    receiver.answers = [503] * 5
    [result] = evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    assert result.delivery == (result.delivery.__class__)(5, "webhook at 127.0.0.1: HTTP 503")
    assert "was not delivered after 5 attempts: webhook at 127.0.0.1: HTTP 503" in caplog.text
    assert "secret-path" not in caplog.text
    [letter] = delivery_log.dead_letters(ledger)
    assert letter[1:6] == (hook.name, "all", "", 5, "webhook at 127.0.0.1: HTTP 503")
    assert json.loads(letter[7])["threshold"] == 1.0
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == [], (
        "given up: not retried at every evaluation"
    )
    [result], _ = delivery_log.retry(ledger, [hook])
    assert result.delivery.error == ""
    assert delivery_log.dead_letters(ledger) == []
    assert receiver.bodies("secret-path")[-1]["threshold"] == 1.0


def test_a_refused_connection_and_a_refused_alert_are_reported_without_the_url(receiver: Receiver, monkeypatch, caplog):
    payload = {"id": "x", "text": "t"}
    refused = Destination("webhook", "http://127.0.0.1:9/secret").deliver(payload)
    assert refused.attempts == 5
    assert "secret" not in caplog.text
    assert refused.error == "webhook at 127.0.0.1: Connection refused"
    receiver.answers = [403]
    assert Destination("webhook", receiver.url("x")).deliver(payload) == destinations.Delivery(
        1, "webhook at 127.0.0.1: HTTP 403"
    )


def test_an_alert_claimed_by_a_dead_guard_is_sent_by_another(ledger: Ledger, receiver: Receiver, monkeypatch):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    hook = Destination("webhook", receiver.url("hook"))
    monkeypatch.setattr(Destination, "deliver", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    monkeypatch.undo()
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == [], "the claim has not expired"
    aged(ledger, 901)
    assert len(evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])) == 1
    assert len(receiver.bodies("hook")) == 1
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == []


def test_a_failed_alert_is_retried_after_a_delay(ledger: Ledger, receiver: Receiver):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    hook = Destination("webhook", receiver.url("hook"))
    receiver.answers = [403]
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])[0].delivery.error
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == []
    aged(ledger, 121)
    [result] = evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    assert result.delivery.error == ""
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == []


def test_retries_back_off_and_end_after_a_day(ledger: Ledger, receiver: Receiver):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    hook = Destination("webhook", receiver.url("hook"))
    attempts: list[int] = []
    minute = 0
    for wait in (0, 1, 1, 2, 2, 4, 4, 8, 8, 512, 512, 720, 720, 720):
        minute += wait
        if wait:
            aged(ledger, wait * 60 + 0.5)
        receiver.answers = [403]
        if evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]):
            attempts.append(minute)
    assert attempts == [0, 2, 6, 14, 30, 542, 1054], "and not after a day"
    [letter] = delivery_log.dead_letters(ledger)
    assert (letter[4], letter[5]) == (7, "webhook at 127.0.0.1: HTTP 403")


def test_a_retry_claimed_by_a_dead_guard_is_repeated_by_another(ledger: Ledger, receiver: Receiver, monkeypatch):
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
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook]) == [], "the claim has not expired"
    aged(ledger, 301)
    assert [result.delivery.error for result in evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])] == [""]


def test_an_alert_of_a_dead_guard_to_a_removed_destination_is_a_dead_letter(
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
    [result], _ = delivery_log.retry(ledger, [Destination("slack", receiver.url("new"))])
    assert result.delivery.error == ""
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


def test_a_retry_of_many_dead_letters_skips_a_failing_destination(ledger: Ledger, receiver: Receiver):
    put(ledger, "u", 1, per="user")
    for number in range(20):
        spend(ledger, MARCH, 1, user_id=f"u{number}")
    hook = Destination("webhook", receiver.url("hook"))
    receiver.answers = [400] * 100
    evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [hook])
    before = len(receiver.got)
    results, _ = delivery_log.retry(ledger, [hook])
    assert (len(results), len(receiver.got) - before < 20) == (20, True)


def test_dead_letters_of_a_removed_destination_go_to_another_of_its_kind(ledger: Ledger, receiver: Receiver):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    receiver.answers = [404]
    evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [Destination("slack", receiver.url("old"))])
    assert delivery_log.retry(ledger, [Destination("webhook", receiver.url("hook"))]) == ([], 1)
    [result], nowhere = delivery_log.retry(ledger, [Destination("slack", receiver.url("new"))])
    assert (result.delivery.error, nowhere) == ("", 0)
    assert delivery_log.dead_letters(ledger) == []


def test_alerts_to_a_failing_destination_are_skipped(ledger: Ledger, receiver: Receiver):
    put(ledger, "u", 1, per="user")
    for number in range(20):
        spend(ledger, MARCH, 1, user_id=f"u{number}")
    receiver.answers = [400] * 100
    results = evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [Destination("webhook", receiver.url("hook"))])
    assert len(results) == 20
    assert len(receiver.got) < 20
    assert sum("skipped" in result.delivery.error for result in results) == 20 - len(receiver.got)


def test_an_endless_response_is_not_read(ledger: Ledger, monkeypatch):
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


def test_of_several_guards_one_sends_an_alert(tmp_path: Path, receiver: Receiver):
    empty_ledger(tmp_path / "chdb")
    front = Front(str(tmp_path / "chdb"))
    threading.Thread(target=front.serve_forever, daemon=True).start()
    dsn = f"http://127.0.0.1:{front.server_port}/spanledger"
    target = resolve_target(dsn)
    try:
        with open_client(target) as client:
            client.database = target.database
            ledger = Ledger(client, target)
            for number in range(5):
                put(ledger, f"budget {number}", 10)
            spend(ledger, MARCH, 9.2)
        words = [sys.executable, "-c", TWO, dsn, receiver.url("hook")]
        guards = [
            subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            for _ in range(3)
        ]
        for result in guards:
            assert result.stdout is not None
            assert result.stdout.readline() == "ready\n"
        for result in guards:
            assert result.stdin is not None
            result.stdin.write("\n")
            result.stdin.flush()
        for result in guards:
            result.communicate(timeout=60)
            assert result.returncode == 0
    finally:
        front.shutdown()
        front.server_close()
        front.session.close()
    assert sorted(alert["budget"] for alert in receiver.bodies("hook")) == [f"budget {number}" for number in range(5)]


def test_an_evaluation_without_destinations_leaves_the_alert_to_others(ledger: Ledger, receiver: Receiver):
    put(ledger, "all", 10)
    spend(ledger, MARCH, 9)
    [result] = evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [])
    assert result.text.startswith("Budget all: 90% of $10.00")
    assert len(evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [])) == 1
    assert (
        len(evaluate.evaluate(ledger, MARCH + timedelta(hours=1), [Destination("webhook", receiver.url("hook"))])) == 1
    )
    assert evaluate.evaluate(ledger, MARCH + timedelta(hours=1), []) == [], "it has been sent"


def test_an_accepted_alert_is_delivered_even_if_the_body_of_the_response_stalls():
    released = threading.Event()

    class Stalling(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "100")
            self.end_headers()
            released.wait(10)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Stalling) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        hook = Destination("webhook", f"http://127.0.0.1:{server.server_port}/hook")
        assert hook.deliver({"id": "1"}) == Delivery(1, "")
        released.set()
