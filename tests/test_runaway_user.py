"""The story of the $40,000 bill, replayed: who is on call hears of it in the first hour."""

from __future__ import annotations

import random
from datetime import UTC, timedelta
from decimal import Decimal
from pathlib import Path

from spanledger_clickhouse import schema, writer
from spanledger_clickhouse.database import connected, target
from synthetic import call
from test_views import START, Asked


def test_the_first_hour_of_a_runaway_user_is_seen(tmp_path: Path):
    """A base of $1,700 a day, then one user at $22.9 an hour on a $10,000 month."""
    chance = random.Random(40)
    where = target(f"chdb://{tmp_path / 'chdb'}")
    rows = [
        call(
            start_time=START + timedelta(hours=hour, minutes=number % 60), trace_id=f"{hour * 100 + number:032x}", span_id=f"{number:016x}",
            user_id=f"user-{number}", feature=chance.choice(["chat", "search"]),
            cost_usd=Decimal(str(round(1700 / 24 / 100 * chance.uniform(0.8, 1.2), 6))),
        )
        for hour in range(14 * 24) for number in range(100)
    ]  # fmt: skip
    begin = START + timedelta(days=14)
    rows += [
        call(start_time=begin + timedelta(minutes=minute), trace_id=f"f{minute:031x}", user_id="scraper", feature="summarize", cost_usd=Decimal("0.45") * (1 + minute // 20))
        for minute in range(60)
    ]  # fmt: skip
    with connected(where) as client:
        schema.migrate(client, where)
        for start in range(0, len(rows), 10_000):
            writer.insert(client, where, [tuple(row.values()) for row in rows[start : start + 10_000]])
        client.insert(f"`{where.database}`.budgets", [["all", "global", "", "month", Decimal(10_000)]],
                      column_names=["name", "scope", "key", "period", "amount_usd"])  # fmt: skip
        asked = Asked(client, where, rows)
        [row] = asked(
            "user_hour_over_daily_share_at", "user_id, feature, calls, share", as_of=begin + timedelta(minutes=20)
        )
        assert row[:3] == ("scraper", "summarize", 21)
        assert row[3] > 0.01
        assert asked("user_hour_over_daily_share_at", as_of=begin - timedelta(hours=3)) == []
        more = [
            call(start_time=begin + timedelta(hours=hour, minutes=minute), trace_id=f"e{hour * 60 + minute:031x}", user_id="scraper", feature="summarize", cost_usd=Decimal("4.40"))
            for hour in range(1, 3) for minute in range(60)
        ]  # fmt: skip
        writer.insert(client, where, [tuple(row.values()) for row in more])
        hits = [
            r
            for r in asked("cost_anomalies_at", as_of=begin + timedelta(hours=2, minutes=59))
            if r[1].replace(tzinfo=UTC) >= begin
        ]
        assert {hit[0] for hit in hits} == {"same_hour_mad", "source_z"}
        for hit in hits:
            assert hit[5][0][0] == "scraper"
            assert hit[6][0][0] == "summarize"
