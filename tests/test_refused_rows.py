"""Pass or poison: a row is refused only if the error is about the data, or while other rows pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from empty_ledger import empty_ledger
from spanledger_clickhouse.database import insert, migrations
from spanledger_clickhouse.database.connection import DatabaseError, open_client
from spanledger_clickhouse.database.insert import PoisonError, SuspectError
from synthetic import call


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (None, DatabaseError), (241, DatabaseError), (60, DatabaseError), (497, DatabaseError), (192, DatabaseError),
        (218, DatabaseError), (252, SuspectError), (33, SuspectError), (574, SuspectError), (700, SuspectError),
        (123456, SuspectError), (27, PoisonError), (407, PoisonError),
    ],
)  # fmt: skip
def test_an_error_code_says_whether_rows_or_the_server_are_at_fault(code, kind):
    from clickhouse_connect.driver.exceptions import DatabaseError as TheirError

    error = TheirError("x")
    error.code = code
    assert insert.kind_of(error) is kind


class Refusing:
    """A server that takes rows until it breaks, but for those it refuses; it cannot say whose fault that is."""

    def __init__(self, refuses: Callable[[list[int]], bool]) -> None:
        self.taken: set[int] = set()
        self.attempts = 0
        self._refuses = refuses

    def send(self, rows: list[int]) -> None:
        self.attempts += 1
        if self._refuses(rows):
            raise SuspectError("something is wrong")
        self.taken.update(rows)


@pytest.mark.parametrize(
    "bad", [{0}, {0, 1}, {999}, {3, 500, 501, 998}, set(range(0, 1000, 20)), set(range(0, 1000, 2))]
)
def test_a_suspect_row_is_refused_only_while_other_rows_pass(bad: set[int]):
    server, refused = Refusing(lambda rows: bool(bad & set(rows))), []
    while server.taken | set(refused) != set(range(1000)):
        with contextlib.suppress(SuspectError):
            insert.isolate(server.send, list(range(1000)), lambda row, _: refused.append(row))
    assert (server.taken, set(refused)) == (set(range(1000)) - bad, bad)


def test_a_server_that_refuses_everything_makes_no_dead_letters():
    server, refused = Refusing(lambda rows: True), []
    for batch in ([1], list(range(1000))):
        with pytest.raises(SuspectError):
            insert.isolate(server.send, batch, lambda row, _: refused.append(row))
    assert not refused
    assert server.attempts <= 1 + insert.MAX_PROBES


def test_a_server_that_breaks_while_rows_are_isolated_makes_no_dead_letters():
    server = Refusing(lambda rows: 7 in rows or server.attempts > 12)
    refused: list[int] = []
    with pytest.raises(SuspectError):
        insert.isolate(server.send, list(range(1000)), lambda row, _: refused.append(row))
    assert not refused


def test_a_suspect_row_beside_a_refused_one_waits():
    """The refused row says nothing about the server."""
    refused: list[int] = []

    def send(rows: list[int]) -> None:
        raise PoisonError("a bad value") if rows == [2] else SuspectError("something is wrong")

    with pytest.raises(SuspectError):
        insert.isolate(send, [1, 2], lambda row, _: refused.append(row))
    assert 1 not in refused


def test_a_batch_over_too_many_partitions_is_sent_in_parts():
    """Code 252 for one insert of more than a hundred months."""
    server, refused = Refusing(lambda rows: len({row % 150 for row in rows}) > 100), []
    insert.isolate(server.send, list(range(1000)), lambda row, _: refused.append(row))
    assert (len(server.taken), refused) == (1000, [])


def test_a_marker_that_passes_says_nothing_about_rows():
    """Markers go to another table: their success is no evidence against a row."""
    refused: list[str] = []

    def send(lines: list[str]) -> None:
        if any(line != "marker" for line in lines):
            raise SuspectError("something is wrong")

    with pytest.raises(SuspectError):
        insert.isolate(send, ["marker", "a", "b"], lambda line, _: refused.append(line), lambda line: line != "marker")
    assert refused == []


def test_a_refusal_is_reported_once_even_if_the_server_breaks_afterwards():
    refused: list[int] = []
    broken = [True]

    def send(rows: list[int]) -> None:
        if 3 in rows:
            raise PoisonError("a bad value")
        if broken[0] and 7 in rows:
            raise DatabaseError("down")

    with pytest.raises(DatabaseError):
        insert.isolate(send, list(range(8)), lambda row, _: refused.append(row))
    assert refused == []
    broken[0] = False
    insert.isolate(send, list(range(8)), lambda row, _: refused.append(row))
    assert refused == [3]


def test_a_row_older_than_the_ledger_keeps_calls_is_refused_with_the_reason(tmp_path: Path):
    """ClickHouse would take it, and delete it with the next merge."""
    target = empty_ledger(tmp_path / "chdb")
    old, new = call(start_time=datetime.now(UTC) - timedelta(days=40)), call(start_time=datetime.now(UTC))
    with open_client(target) as client:
        insert.insert(client, target, [tuple(old.values())])
        migrations.set_retention(client, target, 30)
    refused: list[str] = []
    with open_client(target) as client:
        rows = [tuple(old.values()), tuple({**new, "span_id": "b" * 16}.values())]
        insert.isolate(
            lambda part: insert.insert(client, target, part),
            rows,
            lambda row, why: refused.append(f"{row[2]}: {why}"),
            refusal=lambda row: insert.ExpiredRows(client, target).reason([row]),
        )
    assert len(refused) == 1
    assert "is older than the 30 days for which" in refused[0]
