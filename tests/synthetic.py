"""Rows of the ledger made up for tests: every column has a sane value, a test names those it cares about."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from spanledger_clickhouse.rows import COLUMNS, COSTS

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
