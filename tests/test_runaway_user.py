"""The story of the $40,000 bill, replayed: who is on call hears of it in the first hour."""

from __future__ import annotations

import math
import random
from datetime import UTC, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from empty_ledger import empty_ledger
from questions import Question
from spanledger.limits.limiter import Limiter
from spanledger.limits.policy import BLOCK, DOWNGRADE, Budget, Dimensions, Policy, Rule
from spanledger.limits.store.memory import MemoryStore
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from synthetic import call
from view_queries import START, ViewQueries

pytestmark = pytest.mark.clock


def test_the_first_hour_of_a_runaway_user_is_seen(tmp_path: Path):
    """A base of $1,700 a day, then one user at $22.9 an hour on a $10,000 month."""
    chance = random.Random(40)
    where = empty_ledger(tmp_path / "chdb")
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
    with open_client(where) as client:
        for start in range(0, len(rows), 10_000):
            insert.insert(client, where, [tuple(row.values()) for row in rows[start : start + 10_000]])
        client.insert(f"`{where.database}`.budgets", [["all", "global", "", "month", Decimal(10_000)]],
                      column_names=["name", "scope", "key", "period", "amount_usd"])  # fmt: skip
        asked = ViewQueries(client, where, rows)
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
        insert.insert(client, where, [tuple(row.values()) for row in more])
        hits = [
            r
            for r in asked("cost_anomalies_at", as_of=begin + timedelta(hours=2, minutes=59))
            if r[1].replace(tzinfo=UTC) >= begin
        ]
        assert {hit[0] for hit in hits} == {"same_hour_mad", "source_z"}
        for hit in hits:
            assert hit[5][0][0] == "scraper"
            assert hit[6][0][0] == "summarize"


def test_with_a_limit_the_runaway_user_is_stopped_in_the_first_hour():
    """847 calls in four days at $22.9 an hour; a user may spend 1 % of a day of the $10,000 month in an hour, $5 a day."""
    at = START
    user = Dimensions(user="scraper")
    limits = Limiter(
        Policy((
            Budget("a user's hour", "hour", 3_333_333_333_333, {}, "user", action=BLOCK),
            Budget("a user's day", "day", 5 * 10**12, {}, "user", action=BLOCK),
        )),
        MemoryStore(),
        lambda: at.timestamp(),  # noqa: PLW0108 - `at` changes
    )  # fmt: skip
    cost = int(22.9 * 96 / 847 * 10**12)
    spent: dict[int, int] = {}
    refused = []
    for number in range(847):
        at = START + timedelta(hours=96 * number / 847)
        found = limits.check(user, cost)
        if found.allowed:
            limits.settle(found.reservation, cost)
            day = number * 4 // 847
            spent[day] = spent.get(day, 0) + cost
        else:
            refused.append(at)
            if "hour" in found.reason:
                assert found.retry_after_seconds == math.ceil(3600 - (at - START).total_seconds() % 3600)
        assert limits.check(Dimensions(user=f"user-{number}"), 10**10).allowed, "nobody else notices"
    assert refused[0] - START < timedelta(hours=1)
    assert len(refused) > 800
    assert max(spent.values()) <= 5 * 10**12, "instead of $550 a day"


def test_a_monthly_budget_alerts_and_downgrades_at_its_stated_amounts(caplog):
    """$8,000, $9,000, $9,500 and $10,000 alert once each. From $9,500 calls get the cheaper model, and at $10,000 they are
    refused, except those of a critical feature; a pinned feature keeps its model."""
    at = START
    prices = {"big": 10**12, "small": 10**11}
    rules = {
        "summarize": Rule({"big": "small"}),
        "eval": Rule({"big": "small"}, pinned=True),
        "checkout": Rule({"big": "small"}, critical=True),
    }
    month = Budget("the month", "month", 10_000 * 10**12, action=DOWNGRADE)
    last = Budget("the end", "month", 10_000 * 10**12, action=BLOCK, thresholds=())
    limits = Limiter(Policy((month, last), features=rules), MemoryStore(), lambda: at.timestamp())  # noqa: PLW0108
    total = 0
    models: dict[str, list[tuple[int, str]]] = {"summarize": [], "eval": [], "checkout": []}
    alerts: list[tuple[int, str]] = []
    for number in range(30 * 24 * 20):
        at = START + timedelta(minutes=3 * number)
        feature = ("summarize", "summarize", "eval", "checkout")[number % 4]
        found = limits.check(Dimensions(feature=feature), prices["big"], request_estimate=Question("big", prices.get))
        model = found.model or "big" if found.allowed else "refused"
        models[feature].append((total, model))
        if found.allowed:
            total += prices[model]
            limits.settle(found.reservation, prices[model])
        alerts += [(total, record.message) for record in caplog.records]
        caplog.clear()
    stated = [8_000, 9_000, 9_500, 10_000]
    assert [line for _, line in alerts] == [
        f"budget 'the month': {share}% of $10000 for the month is spent" for share in (80, 90, 95, 100)
    ]
    for (spent, _), amount in zip(alerts, stated, strict=True):
        assert amount <= spent / 10**12 < amount + 1
    for spent, model in models["summarize"]:
        assert model == ("big" if spent < 9_500 * 10**12 else "small" if spent <= 9_999_900 * 10**9 else "refused"), (
            spent
        )
    assert {model for spent, model in models["eval"] if spent < 9_999 * 10**12} == {"big"}
    assert {model for _, model in models["checkout"]} == {"big"}
    assert "refused" in {model for _, model in models["eval"]}
    assert total > 10_000 * 10**12, "the critical go on"
