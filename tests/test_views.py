"""Every view against the same question asked in Python, over a made-up March with everything that rows can be."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from empty_ledger import empty_ledger
from spanledger_clickhouse.database import insert
from spanledger_clickhouse.database.connection import open_client
from spanledger_clickhouse.database.rollups import Rollups
from synthetic import call
from view_queries import START, Row, ViewQueries

pytestmark = pytest.mark.clock

AS_OF = datetime(2026, 3, 29, 12, 0, tzinfo=UTC)
ZERO = Decimal(0)
CREDIT = Decimal("0.002")


def pico(amount: int) -> Decimal:
    return Decimal(amount).scaleb(-12)


def month() -> list[Row]:
    """Some 4,000 calls: unknown prices, failures, retries, corrections below zero, empty and odd names, units."""
    chance = random.Random(20260301)
    rows: list[Row] = []
    for number in range(4000):
        at = START + timedelta(seconds=chance.randrange(28 * 86400))
        cached, written = chance.choice([(0, 0), (500, 0), (0, 300), (1000, 200)])
        fresh, output = chance.choice([0, 10, 250, 30_000]), chance.choice([0, 7, 90, 900])
        priced = chance.random() > 0.05
        error = chance.random() < 0.03
        parts = {
            "input_cost_usd": pico(fresh * 400_000), "cache_read_cost_usd": pico(cached * 100_000),
            "cache_write_cost_usd": pico(written * 500_000), "output_cost_usd": pico(output * 1_600_000),
            "tools_cost_usd": pico(chance.choice([0, 0, 10**10])),
        }  # fmt: skip
        if chance.random() < 0.01:
            parts["output_cost_usd"] = -parts["output_cost_usd"]  # a credit
        attempts = chance.choice([1, 1, 1, 1, 3])
        unit = chance.random() < 0.1
        user = chance.choice(["ada", "bob", "zoë 🐙", "o'brien", None, *(f"user-{n}" for n in range(300))])
        feature = chance.choice(["chat", "search", "résumé", None])
        rows.append(
            call(
                start_time=at, trace_id=f"{number // 3:032x}", span_id=f"{number:016x}", response_id=f"resp-{number // 2 if number % 100 < 2 else number}",
                tenant_id=chance.choice(["acme", "globex", ""]), customer_tier=chance.choice(["free", "pro", None]),
                user_id=user, feature=feature, request_id=chance.choice([f"req-{number // 4}", None]),
                session_id=chance.choice([f"s-{number % 50}", None]), environment=chance.choice(["prod", None]),
                response_model=chance.choice(["gpt-4.1-mini", "claude-sonnet-4-6", ""]), request_model="gpt-4.1-mini",
                price_key="gpt-4.1-mini", provider=chance.choice(["openai", "anthropic"]),
                input_uncached_tokens=fresh, cache_read_tokens=cached, cache_write_tokens=written, output_text_tokens=output,
                cost_usd=sum(parts.values(), ZERO) if priced and not error else None,
                **({**parts} if priced and not error else {}),
                price_status="not_billed" if error else "priced" if priced else "unpriced:no_model",
                outcome="error" if error else chance.choice(["ok"] * 20 + ["aborted"]),
                attempts=attempts, attempt_status=["500"] * (attempts - 1) + ["200"],
                attempt_duration_us=[1000] * attempts,
                attempt_billed=[chance.choice(["no", "unknown"]) for _ in range(attempts - 1)] + ["yes"],
                finish_reasons=[chance.choice(["stop", "length", "tool_calls", "SAFETY", "max_tokens"])] if not error else [],
                error_type="500" if error else "", max_tokens=chance.choice([None, 100, 4000]), temperature=chance.choice([None, 0.2]),
                duration_us=chance.randrange(1, 5_000_000), time_to_first_chunk_us=chance.choice([None, 1000]),
                unit_name="pdf" if unit else None, unit_id=f"pdf-{number % 40}" if unit else "",
                unit_quantity=float(10 + number % 40) if unit else None, unit_measure="page" if unit else "",
                attribution_reason="" if user and feature else "partial", code_file="/app/jobs.py" if not feature else "",
                code_line=7 if not feature else 0, code_function="run" if not feature else "", prompt_hash="abc",
                attributes={"spanledger.cache.hit": "true"} if number % 200 == 0 else {},
            )
        )  # fmt: skip
    return rows


@pytest.fixture(scope="module", params=["calls alone", "rollups"])
def asked(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ViewQueries]:
    where = empty_ledger(tmp_path_factory.mktemp("views") / "chdb")
    rows = month()
    chance = random.Random(7)
    with open_client(where) as client:
        shuffled = [*rows, *chance.sample(rows, 500)]  # some come twice, none in order
        chance.shuffle(shuffled)
        for begin in range(0, len(shuffled), 1000):
            insert.insert(client, where, [tuple(row.values()) for row in shuffled[begin : begin + 1000]])
        corrected = chance.sample(range(len(rows)), 50)
        for number in corrected:
            if rows[number]["cost_usd"] is not None:
                rows[number] = {
                    **rows[number],
                    "other_cost_usd": -CREDIT,
                    "cost_usd": rows[number]["cost_usd"] - CREDIT,
                }
        insert.insert(client, where, [tuple(rows[number].values()) for number in corrected])
        database = f"`{where.database}`"
        client.insert(f"{database}.budgets", [
            ["all", "global", "", "month", Decimal(50)], ["chat", "feature", "chat", "month", Decimal(5)],
            ["ada", "user", "ada", "day", Decimal("0.01")], ["idle", "tenant", "nobody", "month", Decimal(1)],
        ], column_names=["name", "scope", "key", "period", "amount_usd"])  # fmt: skip
        client.insert(f"{database}.revenue", [[date(2026, 3, 1), "acme", "pro", Decimal("12.5")]],
                      column_names=["month", "tenant_id", "customer_tier", "amount_usd"])  # fmt: skip
        client.insert(f"{database}.llm_prices", [
            ["gpt-4.1-mini", "openai", datetime(2025, 1, 1, tzinfo=UTC), Decimal("0.0000004"), Decimal("0.0000016"), "1"],
            ["gpt-dear", "openai", datetime(2025, 1, 1, tzinfo=UTC), Decimal("0.00001"), Decimal("0.00003"), "1"],
        ], column_names=["price_key", "provider", "valid_from", "input_usd", "output_usd", "price_version"])  # fmt: skip
        if request.param == "rollups":
            Rollups(client, where).refresh(datetime(2026, 3, 20, 5, tzinfo=UTC))
        yield ViewQueries(client, where, rows)


def cost(rows: list[Row], column: str = "cost_usd") -> Decimal:
    return sum((row[column] for row in rows if row[column] is not None), ZERO)


def tokens_in(row: Row) -> int:
    return row["input_uncached_tokens"] + row["cache_read_tokens"] + row["cache_write_tokens"]


def model(row: Row) -> str:
    return row["response_model"] or row["request_model"]


def unpriced(rows: list[Row]) -> int:
    return sum(row["price_status"].startswith("unpriced:") for row in rows)


def exact(values: list[Any], level: float) -> Any:
    """quantileExact of ClickHouse: an element, never between two."""
    values = sorted(values)
    return values[min(len(values) - 1, math.floor(level * len(values)))]


def test_cost_by_feature(asked: ViewQueries):
    found = {row[0]: row[1:] for row in asked("cost_by_feature")}
    for feature, rows in asked.grouped(lambda row: row["feature"]).items():
        costs = [row["cost_usd"] for row in rows if row["cost_usd"] is not None]
        total, calls, mean, p95, mean_in, mean_out, without = found.pop(feature)
        assert (total, calls, without) == (sum(costs, ZERO), len(rows), unpriced(rows))
        assert abs(mean - total / len(costs)) < Decimal("1e-11")
        assert p95 == exact(costs, 0.95)
        assert mean_in == pytest.approx(statistics.mean(map(tokens_in, rows)))
        assert mean_out == pytest.approx(statistics.mean(row["output_text_tokens"] for row in rows))
    assert not found


def test_cost_by_user_and_model(asked: ViewQueries):
    found = {row[0]: row[1:] for row in asked("cost_by_user")}
    for user, rows in asked.grouped(lambda row: row["user_id"]).items():
        total, calls, _, dearest, tokens, without = found.pop(user)
        costs = [row["cost_usd"] for row in rows if row["cost_usd"] is not None]
        assert (total or ZERO, calls, dearest) == (cost(rows), len(rows), max(costs, default=None))
        assert (tokens, without) == (sum(tokens_in(row) + row["output_text_tokens"] for row in rows), unpriced(rows))
    assert not found
    models = {row[:2]: row[2:] for row in asked("cost_by_model")}
    for key, rows in asked.grouped(lambda row: (row["provider"], model(row))).items():
        total, calls, into, out, share, without = models.pop(key)
        assert (total, calls, into, without) == (cost(rows), len(rows), sum(map(tokens_in, rows)), unpriced(rows))
        assert out == sum(row["output_text_tokens"] for row in rows)
        assert share == pytest.approx(sum(row["cache_read_tokens"] for row in rows) / into)
    assert not models


def test_windows(asked: ViewQueries):
    since, until = START + timedelta(days=3), START + timedelta(days=9, hours=5)
    rows = [row for row in asked.rows if since <= row["start_time"] < until]
    for view in ("cost_by_feature", "cost_by_user", "cost_by_model"):
        [(total, calls)] = asked(f"{view}_between", "sum(total_cost_usd), sum(calls)", since=since, until=until)
        assert (total, calls) == (cost(rows), len(rows))
    [(total, calls)] = asked("hourly_cost_between", "sum(total_cost_usd), sum(total_calls)", since=since, until=until)
    assert (total, calls) == (cost(rows), len(rows))


def test_request_cost(asked: ViewQueries):
    found = {row[0]: row[1:] for row in asked("request_cost", "request_id, total_cost_usd, calls, tokens, first_call")}
    for request, rows in asked.grouped(lambda row: row["request_id"]).items():
        if request is None:
            continue
        total, calls, tokens, first = found.pop(request)
        assert (total or ZERO, calls) == (cost(rows), len(rows))
        assert tokens == sum(tokens_in(row) + row["output_text_tokens"] for row in rows)
        assert first.replace(tzinfo=UTC) == min(row["start_time"] for row in rows)
    assert not found


def test_hourly_cost_has_every_hour(asked: ViewQueries):
    found = {row[0].replace(tzinfo=UTC): row[1:] for row in asked("hourly_cost")}
    groups = asked.grouped(lambda row: row["start_time"].replace(minute=0, second=0, microsecond=0))
    hours = int((max(groups) - min(groups)).total_seconds() // 3600) + 1
    assert len(found) == hours
    for hour, (total, calls) in found.items():
        assert (total, calls) == (cost(groups.get(hour, [])), len(groups.get(hour, [])))


def test_tenants_and_margins(asked: ViewQueries):
    found = {row[1:3]: row[3:] for row in asked("cost_by_tenant_tier")}
    for key, rows in asked.grouped(lambda row: (row["tenant_id"], row["customer_tier"] or "")).items():
        total, calls, revenue, margin, share = found.pop(key)
        assert (total, calls) == (cost(rows), len(rows))
        if key == ("acme", "pro"):
            assert (revenue, margin) == (Decimal("12.5"), Decimal("12.5") - total)
            assert share == pytest.approx(float(margin / revenue))
        else:
            assert (revenue, margin, share) == (None, None, None)
    assert not found


def test_the_record_of_a_call(asked: ViewQueries):
    columns = (
        "call_id, timestamp, model, feature_name, user_id, session_id, input_tokens, output_tokens, total_tokens, input_cost_usd, "
        "output_cost_usd, total_cost_usd, latency_ms, tokens_per_second, temperature, max_tokens, prompt_hash, finish_reason, cache_hit, error"
    )
    found = {row[0]: row for row in asked("llm_call_record", columns)}
    assert len(found) == len(asked.rows)
    reasons = {
        "stop": "stop",
        "length": "length",
        "max_tokens": "length",
        "tool_calls": "tool_use",
        "SAFETY": "content_filter",
    }
    for row in asked.rows:
        got = found[row["span_id"]]
        out = row["output_text_tokens"]
        into = (
            None
            if row["cost_usd"] is None
            else row["input_cost_usd"] + row["cache_read_cost_usd"] + row["cache_write_cost_usd"]
        )
        streaming = row["duration_us"] - (row["time_to_first_chunk_us"] or 0)
        assert got[1].replace(tzinfo=UTC) == row["start_time"]
        assert got[2:6] == (model(row), row["feature"], row["user_id"], row["session_id"])
        assert got[6:9] == (tokens_in(row), out, tokens_in(row) + out)
        assert got[9:12] == (into, row["output_cost_usd"], row["cost_usd"])
        assert got[12] == row["duration_us"] / 1000
        assert got[13] == (pytest.approx(out * 1e6 / streaming) if out and streaming > 0 else None)
        assert got[14:17] == (row["temperature"], row["max_tokens"], "abc")
        assert got[17] == ("error" if row["outcome"] == "error" else reasons[row["finish_reasons"][0]])
        assert got[18:] == (bool(row["attributes"]), row["error_type"])


def test_efficiency(asked: ViewQueries):
    found = {row[0]: row[1:] for row in asked("efficiency")}
    for feature, rows in asked.grouped(
        lambda row: row["feature"], [r for r in asked.rows if r["outcome"] != "error"]
    ).items():
        calls, mean_in, mean_out, p95_in, p95_out, ratio, reasons, truncated, limit, hints = found.pop(feature)
        assert calls == len(rows)
        assert (p95_in, p95_out) == (
            exact(list(map(tokens_in, rows)), 0.95),
            exact([r["output_text_tokens"] for r in rows], 0.95),
        )
        assert (mean_in, mean_out) == (
            pytest.approx(statistics.mean(map(tokens_in, rows))),
            pytest.approx(statistics.mean(r["output_text_tokens"] for r in rows)),
        )
        assert ratio == pytest.approx(
            statistics.mean(r["output_text_tokens"] / tokens_in(r) for r in rows if tokens_in(r))
        )
        assert sum(reasons.values()) == len(rows)
        assert truncated == pytest.approx(
            sum(r["finish_reasons"][0] in ("length", "max_tokens") for r in rows) / len(rows)
        )
        assert limit == exact([r["max_tokens"] for r in rows if r["max_tokens"] is not None], 0.5)
        assert any("truncated" in hint for hint in hints)
    assert not found


def test_what_is_unattributed_unpriced_wasted_and_double(asked: ViewQueries):
    lost = {
        row[:4]: row[4:]
        for row in asked("unattributed_spend", "code_file, code_line, code_function, reason, total_cost_usd, calls")
    }
    rows = [row for row in asked.rows if row["attribution_reason"]]
    for key, part in asked.grouped(
        lambda r: (r["code_file"], r["code_line"], r["code_function"], r["attribution_reason"]), rows
    ).items():
        assert lost.pop(key) == (cost(part), len(part))
    assert not lost

    found = {row[:4]: row[4:] for row in asked("unpriced_calls")}
    rows = [row for row in asked.rows if row["price_status"].startswith("unpriced:")]
    for key, part in asked.grouped(
        lambda r: ("no_model", r["provider"], r["request_model"], r["response_model"]), rows
    ).items():
        calls, into, out, _, low, high = found.pop(key)
        assert (calls, into, out) == (len(part), sum(map(tokens_in, part)), sum(r["output_text_tokens"] for r in part))
        known = key[1] == "openai"
        assert low == (into * pico(400_000) + out * pico(1_600_000) if known else None)
        assert high == (into * pico(10_000_000) + out * pico(30_000_000) if known else None)
    assert not found

    waste = {row[:2]: row[2:] for row in asked("attempts_waste")}
    for key, part in asked.grouped(lambda r: (r["feature"], model(r))).items():
        retried, extra, failed, aborted, aborted_cost, cut_cost, maybe, seconds = waste.pop(key)[1:]
        assert retried == sum(r["attempts"] > 1 for r in part)
        assert extra == sum(r["attempts"] - 1 for r in part)
        assert (failed, aborted) == tuple(sum(r["outcome"] == what for r in part) for what in ("error", "aborted"))
        assert (aborted_cost or ZERO) == cost([r for r in part if r["outcome"] == "aborted"])
        assert (cut_cost or ZERO) == cost([r for r in part if r["finish_reasons"][:1] in (["length"], ["max_tokens"])])
        assert maybe == sum(r["attempt_billed"].count("unknown") for r in part)
        assert seconds == pytest.approx(sum(1000 * (len(r["attempt_billed"]) - 1) for r in part) / 1e6)
    assert not waste

    double = {row[:2]: row[2:4] for row in asked("duplicate_calls")}
    for key, part in asked.grouped(
        lambda r: (r["provider"], r["response_id"]), [r for r in asked.rows if r["outcome"] == "ok"]
    ).items():
        if len(part) > 1:
            assert double.pop(key) == (len(part), cost(part) if any(r["cost_usd"] is not None for r in part) else None)
    assert not double


def test_cache_savings(asked: ViewQueries):
    found = {row[:2]: row[2:] for row in asked("cache_savings")}
    rate = pico(400_000)
    for key, rows in asked.grouped(lambda row: (row["feature"], model(row))).items():
        read, written, hit, saved, surcharge, net, unknown = found.pop(key)
        priced = [row for row in rows if row["cost_usd"] is not None]
        assert (read, written, unknown) == (
            sum(r["cache_read_tokens"] for r in rows),
            sum(r["cache_write_tokens"] for r in rows),
            0,
        )
        assert hit == pytest.approx(read / sum(map(tokens_in, rows)))
        assert saved == sum((r["cache_read_tokens"] * rate - r["cache_read_cost_usd"] for r in priced), ZERO)
        assert surcharge == sum((r["cache_write_cost_usd"] - r["cache_write_tokens"] * rate for r in priced), ZERO)
        assert net == saved - surcharge
    assert not found


def test_unit_cost(asked: ViewQueries):
    [row] = asked("unit_cost")
    units = asked.grouped(lambda r: r["unit_id"], [r for r in asked.rows if r["unit_name"]])
    costs = [cost(rows) for rows in units.values()]
    pages = sum(max(r["unit_quantity"] for r in rows) for rows in units.values())
    assert row[:5] == ("pdf", "page", len(units), sum(costs, ZERO), pages)
    assert row[5] == pytest.approx(float(sum(costs, ZERO)) / pages)
    assert row[6:] == (exact(costs, 0.5), exact(costs, 0.95), sum(map(len, units.values())))


def test_focus_sums_to_the_ledger(asked: ViewQueries):
    [(billed, quantity)] = asked(
        "focus_cost_and_usage", "sum(BilledCost), sumIf(ConsumedQuantity, ConsumedUnit = 'Tokens')"
    )
    assert billed == cost(asked.rows)
    assert quantity == sum(tokens_in(row) + row["output_text_tokens"] for row in asked.rows)
    assert {row[0] for row in asked("focus_cost_and_usage", "DISTINCT x_TokenType")} == {
        "input",
        "cache_read",
        "cache_write",
        "output",
        "tools",
        "other",
    }


def to_come(days: dict[date, float]) -> list[float]:
    """What the rest of the month costs, day by day: the last seven days' mean, times each weekday's share of whole weeks."""
    today = AS_OF.date()
    known = min(28, (today - min(days)).days)
    past = [(today - timedelta(days=n), days.get(today - timedelta(days=n), 0.0)) for n in range(1, known // 7 * 7 + 1)]
    mean = sum(cost for _, cost in past) / len(past)
    weekly = {
        w: sum(cost for day, cost in past if day.isoweekday() == w) / (len(past) // 7) / mean for w in range(1, 8)
    }
    pace = sum(days.get(today - timedelta(days=n), 0) for n in range(1, 8)) / 7
    end, moment, costs = datetime(2026, 4, 1, tzinfo=UTC), AS_OF, []
    while moment < end:
        midnight = (moment + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        share = weekly[moment.isoweekday()] if known >= 14 else 1
        costs.append(pace * share * ((min(midnight, end) - moment) / timedelta(days=1)))
        moment = midnight
    return costs


def test_budgets(asked: ViewQueries):
    found = {row[0]: row[1:] for row in asked(
        "budget_status_at", "name, spent_usd, utilisation, projected_usd, exhausted_at, exhausted_earliest, exhausted_latest, thresholds_crossed", as_of=AS_OF
    )}  # fmt: skip

    def daily(rows: list[Row]) -> dict[date, float]:
        return {day: float(cost(part)) for day, part in asked.grouped(lambda r: r["start_time"].date(), rows).items()}

    scopes = {"all": (asked.rows, 50), "chat": ([r for r in asked.rows if r["feature"] == "chat"], 5)}
    for name, (rows, amount) in scopes.items():
        days = daily(rows)
        spent = sum(days.values())
        got = found[name]
        assert got[0] == pytest.approx(spent)
        assert got[1] == pytest.approx(spent / amount)
        assert got[2] == pytest.approx(spent + sum(to_come(days)))
        assert got[6] == [t for t in (0.8, 0.9, 0.95, 1.0) if spent / amount >= t]
        if spent < amount:
            assert got[3] is None, "it is not used up in this period"
    assert found["idle"][:2] == (0, 0)
    assert found["idle"][3] is None
    today = [r for r in asked.rows if r["user_id"] == "ada" and r["start_time"].date() == AS_OF.date()]
    assert found["ada"][0] == pytest.approx(float(cost(today)))


def test_trends(asked: ViewQueries):
    found = {row[0]: row[1:] for row in asked("cost_trend_at", as_of=AS_OF)}
    first = AS_OF.date() - timedelta(days=28)
    for feature, rows in asked.grouped(lambda r: r["feature"]).items():
        days = [0.0] * 28
        for row in rows:
            if row["start_time"].date() < AS_OF.date():
                days[(row["start_time"].date() - first).days] += float(row["cost_usd"] or 0)
        weeks = [sum(days[7 * n : 7 * n + 7]) for n in range(4)]
        slopes = [(days[i + 7 * k] - days[i]) / k for i in range(28) for k in (1, 2, 3) if i + 7 * k < 28]
        this, last, change, slope, share, rising, shown = found.pop(feature)
        assert shown == pytest.approx(weeks)
        assert (this, last, change) == (
            pytest.approx(weeks[3]),
            pytest.approx(weeks[2]),
            pytest.approx(weeks[3] / weeks[2] - 1),
        )
        assert slope == pytest.approx(7 * statistics.median(slopes))
        assert share == pytest.approx(slope / statistics.mean(weeks))
        assert bool(rising) == (weeks == sorted(weeks) and share > 0.1)
    assert not found


def test_anomalies_by_both_methods(asked: ViewQueries):
    """The present hour twenty times as dear as ever: both methods name it, and who it was."""
    assert asked("cost_anomalies_at", as_of=START - timedelta(days=1)) == []
    got = asked("cost_anomalies_at", as_of=AS_OF)
    since = AS_OF - timedelta(days=14)
    paid = {
        h: float(cost(rows))
        for h, rows in asked.grouped(lambda r: r["start_time"].replace(minute=0, second=0, microsecond=0)).items()
        if since < h <= AS_OF
    }
    mean, deviation = statistics.mean(paid.values()), statistics.stdev(paid.values())
    expected = {h for h, spent in paid.items() if (spent - mean) / deviation > 3}
    assert {row[1].replace(tzinfo=UTC) for row in got if row[0] == "source_z"} == expected
    first = min(paid)
    hours = [first + timedelta(hours=n) for n in range(int((AS_OF - first).total_seconds() // 3600) + 1)]
    filled = {hour: paid.get(hour, 0.0) for hour in hours}
    robust = set()
    for hour, spent in filled.items():
        before = [filled[h] for h in hours if h < hour and h.hour == hour.hour]
        if len(before) >= 3:
            normal = statistics.median(before)
            spread = max(
                1.4826 * statistics.median(abs(v - normal) for v in before),
                0.1 * normal,
                0.05 * statistics.mean(filled.values()),
            )
            if (spent - normal) / spread > 4:
                robust.add(hour)
    assert {row[1].replace(tzinfo=UTC) for row in got if row[0] == "same_hour_mad"} == robust
    assert robust
    for method, hour, spent, *_, users, features in got:
        rows = [
            r
            for r in asked.rows
            if r["start_time"].replace(minute=0, second=0, microsecond=0) == hour.replace(tzinfo=UTC)
        ]
        by_user = sorted((cost(part) for part in asked.grouped(lambda r: r["user_id"], rows).values()), reverse=True)
        assert [Decimal(entry[1] or 0) for entry in users] == by_user[:3], method
        assert spent == pytest.approx(float(cost(rows)))
        assert len(features) <= 3


def test_the_ledger_beside_the_invoice(asked: ViewQueries):
    days = asked.grouped(lambda row: (row["start_time"].date(), row["provider"]))
    chosen = [(date(2026, 3, 3), "openai"), (date(2026, 3, 4), "anthropic"), (date(2025, 1, 1), "openai")]
    asked.client.insert(
        f"`{asked.target.database}`.invoices",
        [[*key, project, Decimal("1.25")] for key in chosen for project in ("a", "b")],
        column_names=["day", "provider", "project", "amount_usd"],
    )
    found = {row[:2]: row[2:] for row in asked("reconciliation")}
    assert found.keys() == set(chosen)
    for key in chosen:
        rows = days.get(key, [])
        paid = sum((row["cost_usd"] for row in rows if row["cost_usd"] is not None), ZERO)
        unpriced = sum(row["price_status"].startswith("unpriced") for row in rows)
        invoiced, ledger, residual, share, count = found[key]
        assert (invoiced, ledger, residual, count) == (Decimal("2.5"), paid, Decimal("2.5") - paid, unpriced)
        assert share == pytest.approx(float((Decimal("2.5") - paid) / Decimal("2.5")))
