"""Rows of the ledger made up for tests: every column has a sane value, a test names those it cares about."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from spanledger_clickhouse.rows.rows import COLUMNS, COSTS

EMPTY = {"String": "", "LowCardinality(String)": "", "Bool": False, "UInt16": 0, "UInt32": 0, "UInt64": 0}


def call(**columns: Any) -> dict[str, Any]:
    """One call, its columns in the order of a row. `cost_usd` alone is taken for the cost of its output."""
    row: dict[str, Any] = {}
    for name, kind in COLUMNS.items():
        row[name] = [] if kind.startswith("Array") else {} if kind.startswith("Map") else EMPTY.get(kind)
    row |= {
        "start_time": datetime(2026, 3, 1, tzinfo=UTC), "trace_id": "0" * 32, "span_id": "0" * 16, "service": "app",
        "environment": "prod", "provider": "openai", "operation": "chat", "request_model": "gpt-4.1-mini",
        "response_model": "gpt-4.1-mini", "input_uncached_tokens": 100, "output_text_tokens": 20, "usage_source": "exact",
        "duration_us": 500_000, "outcome": "ok", "attempts": 1, "source": "spool", "price_status": "priced",
        **{name: Decimal(0) for name, _ in COSTS},
    }  # fmt: skip
    unknown = columns.keys() - COLUMNS.keys()
    assert not unknown, unknown
    row |= columns
    if "cost_usd" in columns and "output_cost_usd" not in columns:
        row["output_cost_usd"] = columns["cost_usd"]
    if row["cost_usd"] is None:
        row |= {name: None for name, _ in COSTS}
        row["price_status"] = "unpriced:no_model" if row["price_status"] == "priced" else row["price_status"]
    return row


def shop(until: datetime, calls: int = 20_000, seed: int = 5) -> list[dict[str, Any]]:
    """Thirty days of a shop's calls that end at `until`: a rhythm of days, growth, a runaway user for the last three
    hours; unpriced, unattributed, retried, truncated and duplicate calls."""
    import math
    import random
    from datetime import timedelta

    chance = random.Random(seed)
    features = {"summarize": 5, "search": 9, "chat": 12, "translate": 2, "classify": 4, "extract": 3}
    models = {
        "gpt-4.1-mini": ("openai", 400_000, 100_000, 1_600_000), "gpt-5.4-mini": ("openai", 750_000, 75_000, 4_500_000),
        "claude-sonnet-4-6": ("anthropic", 3_000_000, 300_000, 15_000_000), "gemini-3.5-flash": ("gcp.gemini", 1_500_000, 150_000, 9_000_000),
    }  # fmt: skip
    begin = until - timedelta(days=30)
    rows: list[dict[str, Any]] = []

    def one(at: datetime, feature: str | None, user: str | None, size: float = 1.0) -> None:
        number = len(rows)
        model = chance.choices(list(models), [6, 4, 2, 3])[0]
        provider, rate_in, rate_read, rate_out = models[model]
        fresh, cached, output = (
            int(size * chance.randrange(20_000, 90_000)),
            chance.choice([0, 0, 4096, 16_384]),
            int(size * chance.randrange(1000, 9000)),
        )
        unpriced, failed, retried = chance.random() < 0.004, chance.random() < 0.01, chance.random() < 0.03
        parts = {
            "input_cost_usd": Decimal(fresh * rate_in).scaleb(-12), "cache_read_cost_usd": Decimal(cached * rate_read).scaleb(-12),
            "output_cost_usd": Decimal(output * rate_out).scaleb(-12),
        }  # fmt: skip
        paid = not unpriced and not failed
        lost = feature is None or user is None
        rows.append(call(
            start_time=at, trace_id=f"{number // 3:032x}", span_id=f"{number:016x}", response_id=f"resp-{number}", process_id=f"p{number % 3}", sequence=number // 3,
            tenant_id=f"tenant-{int(user[5:]) % 7}" if user else "", customer_tier=["free", "pro", "enterprise"][int(user[5:]) % 3] if user else None,
            user_id=user, feature=feature, request_id=f"req-{number // 3}", provider=provider, request_model="gpt-6-preview" if unpriced else model,
            response_model="gpt-6-preview" if unpriced else model, price_key=model, price_source="bundled", price_version="1.109.1", service=f"service-{number % 3}",
            environment=chance.choices(["prod", "staging"], [9, 1])[0], input_uncached_tokens=fresh, cache_read_tokens=cached, output_text_tokens=output,
            cost_usd=sum(parts.values(), Decimal(0)) if paid else None, **(parts if paid else {}),
            price_status="not_billed" if failed else "priced" if paid else "unpriced:no_model", outcome="error" if failed else "ok",
            attempts=3 if retried else 1, attempt_status=["500", "500", "200"] if retried else ["200"], attempt_duration_us=[1000] * (3 if retried else 1),
            attempt_billed=["no", "unknown", "yes"] if retried else ["yes"], finish_reasons=["length" if chance.random() < 0.06 else "stop"], max_tokens=32_000,
            duration_us=int(chance.lognormvariate(14.5, 0.6)), time_to_first_chunk_us=chance.randrange(100_000, 900_000),
            attribution_reason="context_lost" if lost else "", code_file="shop/jobs.py" if lost else "", code_line=108 if lost else 0,
            code_function="index_documents" if lost else "",
        ))  # fmt: skip

    for _ in range(calls):
        share = chance.random() ** 0.8  # more of them towards the end: growth
        at = begin + share * (until - begin)
        if chance.random() < 0.6 + 0.4 * math.sin((at.hour - 8) / 24 * 2 * math.pi):
            lost = chance.random() < 0.04
            one(
                at,
                None if lost else chance.choices(list(features), list(features.values()))[0],
                None if lost else f"user-{int(chance.paretovariate(1.1)) % 400}",
            )
    for minute in range(170):
        one(until - timedelta(minutes=175 - minute), "summarize", "user-847", 6.0)
    for twice in [row for row in rows[-170:] if row["cost_usd"] is not None][:2]:
        rows.append({**twice, "span_id": f"{len(rows):016x}", "scope": "spanledger.openai"})
    return rows


def open_shop(client: Any, where: Any, until: datetime, calls: int = 20_000) -> list[dict[str, Any]]:
    """Write a shop's month into a ledger, with budgets, revenue, prices, rollups, a correction, a late row and a hole."""
    from datetime import timedelta

    from spanledger.pricing.price_table import prices
    from spanledger_clickhouse.database import insert, migrations
    from spanledger_clickhouse.database.rollups import Rollups
    from spanledger_clickhouse.prices import price_table_sync

    migrations.migrate(client, where)
    rows = shop(until, calls)
    kept = [row for row in rows if row["sequence"] not in (700, 701)]  # two rows that never came
    for start in range(0, len(kept), 5000):
        insert.insert(client, where, [tuple(row.values()) for row in kept[start : start + 5000]])
    database = f"`{where.database}`"
    client.insert(f"{database}.budgets", [
        ["everything", "global", "", "month", Decimal(4500 * calls // 20_000)], ["a day", "global", "", "day", Decimal(200 * calls // 20_000)], ["chat", "feature", "chat", "month", Decimal(1000 * calls // 20_000)],
        ["summaries", "feature", "summarize", "month", Decimal(600 * calls // 20_000)], ["free users", "tier", "free", "month", Decimal(2000 * calls // 20_000)], ["user 847", "user", "user-847", "day", Decimal(5)],
    ], column_names=["name", "scope", "key", "period", "amount_usd"])  # fmt: skip
    month = until.date().replace(day=1)
    client.insert(f"{database}.revenue", [[month, f"tenant-{n}", tier, Decimal(50 + 300 * n)] for n in range(7) for tier in ("pro", "enterprise")],
                  column_names=["month", "tenant_id", "customer_tier", "amount_usd"])  # fmt: skip
    client.insert(f"{database}.corrections", [[until - timedelta(hours=1), until - timedelta(hours=3), "t", "s", "gpt-4.1-mini", Decimal("0.1"), Decimal("0.2")]],
                  column_names=["at", "start_time", "trace_id", "span_id", "model", "old_cost_usd", "new_cost_usd"])  # fmt: skip
    invoiced: dict[tuple[Any, str], Decimal] = {}
    for row in rows:  # the invoice includes the missing rows, and duplicates once
        if row["cost_usd"] is not None and row["scope"] != "spanledger.openai":
            key = (row["start_time"].date(), row["provider"])
            invoiced[key] = invoiced.get(key, Decimal(0)) + row["cost_usd"]
    client.insert(f"{database}.invoices", [[day, provider, amount] for (day, provider), amount in invoiced.items()],
                  column_names=["day", "provider", "amount_usd"])  # fmt: skip
    price_table_sync.sync(client, where, prices())
    Rollups(client, where).refresh()
    return kept
