"""`spanledger reprice`: former costs are kept, unpriced calls get a price, an interrupted run resumes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from click.testing import CliRunner

from spanledger.pricing.price_table import prices
from spanledger_clickhouse.cli import main
from spanledger_clickhouse.database import insert as writer
from spanledger_clickhouse.database.connection import DatabaseError, Target
from spanledger_clickhouse.database.rollups import Rollups
from spanledger_clickhouse.prices import price_table_sync, repricing
from spanledger_clickhouse.rows.rows import billed_call
from synthetic import call

pytestmark = pytest.mark.clock

START = datetime(2026, 11, 1, 10, tzinfo=UTC)
RIGHT = Decimal(100 * 400_000 + 20 * 1_600_000).scaleb(-12)
"""100 tokens in, 20 out of gpt-4.1-mini."""


@pytest.fixture
def ledger(embedded: tuple[Any, Target]) -> tuple[Any, Target]:
    client, where = embedded
    rows = [
        call(start_time=START + timedelta(hours=number // 4), trace_id=f"{number:032x}", **columns)
        for number, columns in enumerate(
            [{"cost_usd": RIGHT, "price_version": "old"}] * 3
            + [{"cost_usd": Decimal("0.5"), "price_version": "old"}] * 3
            + [{"cost_usd": None, "price_status": "unpriced:no_price"}] * 3
            + [{"cost_usd": Decimal(1), "price_status": "provider_reported"}, {"cost_usd": None, "price_status": "not_billed", "outcome": "error"}]
            + [{"cost_usd": None, "price_status": "unpriced:no_usage", "usage_source": "missing"}]
            + [{"cost_usd": None, "response_model": "nobody-knows", "request_model": "nobody-knows"}]
        )
    ]  # fmt: skip
    writer.insert(client, where, [tuple(row.values()) for row in rows])
    return client, where


def costs(ledger: tuple[Any, Target]) -> list[Any]:
    client, where = ledger
    return [
        row[0]
        for row in client.query(
            f"SELECT cost_usd FROM `{where.database}`.llm_calls FINAL ORDER BY trace_id"
        ).result_rows
    ]


AFTER = [RIGHT] * 9 + [Decimal(1), None, None, None]


def test_wrong_and_missing_prices_are_corrected_once(ledger):
    client, where = ledger
    Rollups(client, where).refresh(START + timedelta(days=2))
    window = (client, where, START - timedelta(days=1), START + timedelta(days=1))
    before = costs(ledger)
    dry = repricing.reprice(*window, dry_run=True)
    assert costs(ledger) == before
    done = repricing.reprice(*window)
    assert dry == done
    [change] = done
    assert (change.model, change.calls, change.newly_priced) == ("gpt-4.1-mini", 6, 3)
    assert (change.old_usd, change.new_usd) == (Decimal("1.5"), 6 * RIGHT)
    assert costs(ledger) == AFTER
    assert repricing.reprice(*window) == []
    audit = client.query(
        f"SELECT old_cost_usd, new_cost_usd, old_price_version FROM `{where.database}`.corrections FINAL ORDER BY trace_id"
    ).result_rows
    assert audit == [(Decimal("0.5"), RIGHT, "old")] * 3 + [(None, RIGHT, "")] * 3
    Rollups(client, where).refresh(START + timedelta(days=2))
    assert Rollups(client, where).differences() == []
    total = client.query(f"SELECT sum(cost_usd) FROM `{where.database}`.llm_costs").result_rows[0][0]
    assert total == 9 * RIGHT + 1


def test_a_redelivered_row_does_not_undo_its_correction(ledger):
    client, where = ledger
    late = call(start_time=START, trace_id="f" * 32, cost_usd=Decimal(7))
    writer.insert(client, where, [tuple(late.values())])
    repricing.reprice(client, where, START, START + timedelta(days=1))
    other = call(start_time=START, trace_id="e" * 32, cost_usd=RIGHT)
    writer.insert(client, where, [tuple(late.values()), tuple(other.values())])
    assert costs(ledger)[-2:] == [RIGHT, RIGHT]


def test_a_row_of_a_host_whose_clock_is_ahead_is_corrected(ledger):
    """Its version, the end of its call by that clock, is later than now."""
    client, where = ledger
    ahead = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=40)
    row = call(start_time=ahead, trace_id="d" * 32, cost_usd=Decimal(7))
    writer.insert(client, where, [tuple(row.values())])
    window = (client, where, ahead, ahead + timedelta(hours=1))
    assert [(change.calls, change.new_usd) for change in repricing.reprice(*window)] == [(1, RIGHT)]
    assert repricing.reprice(*window) == [], "what was corrected is right"


def test_a_correction_that_does_not_show_is_an_error(ledger, monkeypatch):
    client, where = ledger
    monkeypatch.setattr(writer, "insert", lambda *_, **__: None)
    with pytest.raises(DatabaseError, match=r"1 calls of 2026-11-01 .* but only 0 show it"):
        repricing.reprice(client, where, START, START + timedelta(days=1))


def test_an_interrupted_run_resumes(ledger, monkeypatch):
    client, where = ledger
    insert, left = writer.insert, [1]

    def dying(*args: Any, **kwargs: Any) -> None:
        if not left[0]:
            raise MemoryError("killed")
        left[0] -= 1
        insert(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(writer, "insert", dying)
        with pytest.raises(MemoryError):
            repricing.reprice(client, where, START, START + timedelta(days=1))
    assert costs(ledger) != AFTER
    repricing.reprice(client, where, START, START + timedelta(days=1))
    assert costs(ledger) == AFTER
    assert client.query(f"SELECT count() FROM `{where.database}`.corrections FINAL").result_rows[0][0] == 6


def test_one_model_can_be_repriced_alone(ledger):
    client, where = ledger
    assert repricing.reprice(client, where, START, START + timedelta(days=1), model="another") == []


def test_the_command_reports_the_changes(ledger, monkeypatch):
    monkeypatch.setenv("SPANLEDGER_DSN", ledger[1].dsn)
    arguments = ["reprice", "--since", "2026-11-01", "--until", "2026-11-02"]
    dry = CliRunner().invoke(main, [*arguments, "--dry-run", "--json"])
    assert json.loads(dry.stdout)[0]["calls"] == 6
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert costs(ledger) == AFTER
    assert "prices written" in CliRunner().invoke(main, ["prices", "sync"]).output


def test_the_price_list_has_former_prices_too(ledger):
    client, where = ledger
    gone = ["a-model-that-is-gone", "openai", START, START]
    client.insert(
        f"`{where.database}`.llm_prices", [gone], column_names=["price_key", "provider", "valid_from", "valid_to"]
    )
    assert price_table_sync.sync(client, where, prices()) > 1000
    assert (
        client.query(
            f"SELECT count() FROM `{where.database}`.llm_prices FINAL WHERE provider = 'openai' AND price_key LIKE '%gone'"
        ).result_rows[0][0]
        == 0
    )
    query = f"SELECT input_usd, output_usd FROM `{where.database}`.llm_prices FINAL WHERE price_key = 'gpt-4.1-mini' AND valid_to > now()"
    assert client.query(query).result_rows == [(Decimal("0.0000004"), Decimal("0.0000016"))]
    overlapping = client.query(
        f"SELECT count() FROM (SELECT price_key, valid_to, leadInFrame(valid_from, 1, valid_to) OVER (PARTITION BY price_key ORDER BY valid_from "
        f"ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS next FROM `{where.database}`.llm_prices FINAL) WHERE next != valid_to"
    ).result_rows[0][0]
    assert overlapping == 0


def test_what_the_answer_left_open_stays_open_and_what_the_table_lacked_does_not():
    row = call(
        price_flags=["estimated", "fee_unknown", "usage_unread"], attributes={"spanledger.usage.doubts": "usage_unread"}
    )
    assert billed_call(row).doubts == ("usage_unread",)
