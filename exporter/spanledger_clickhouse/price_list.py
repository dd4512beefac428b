"""The prices in force as rows of `llm_prices`, for questions that SQL asks: savings, bounds, the Collector alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final

from spanledger.pricing.resolve import canonical
from spanledger.pricing.rules import Entry
from spanledger.pricing.table import Prices
from spanledger_clickhouse.database import DatabaseError, Target, reason

BEGINNING: Final = datetime(2020, 1, 1, tzinfo=UTC)
END: Final = datetime(2106, 1, 1, tzinfo=UTC)

RATES: Final = {
    "input_usd": ("input_cost_per_token", 0),
    "cache_read_usd": ("cache_read_input_token_cost", 0),
    "cache_write_usd": ("cache_creation_input_token_cost", 0),
    "cache_write_1h_usd": ("cache_creation_input_token_cost", 1),
    "output_usd": ("output_cost_per_token", 0),
}
"""Column -> (field of LiteLLM's table, hours that a cache entry lives)."""

COLUMNS: Final = {
    "price_key": "String",
    "provider": "LowCardinality(String)",
    "valid_from": "DateTime('UTC')",
    "valid_to": "DateTime('UTC')",
    **dict.fromkeys(RATES, "Nullable(Decimal(18, 12))"),
    "price_version": "String",
}


def listed(prices: Prices) -> Iterator[tuple[Any, ...]]:
    """Rows of `llm_prices`: every model with a price a token, former prices included; standard tier, no long context."""
    seen: set[str] = set()
    for table in prices.tables:
        for key in table.models:
            entry = table.entry(key) if key not in seen else None
            seen.add(key)
            if entry is not None and any((base, hours, 0, "") in entry.fields for base, hours in RATES.values()):
                yield from _dated(entry, table.version)


def _dated(entry: Entry, version: str) -> Iterator[tuple[Any, ...]]:
    begin = BEGINNING
    for until, former in (*entry.earlier, (None, entry)):
        end = _midnight(until) if until else END
        rates = (former.fields.get((base, hours, 0, "")) for base, hours in RATES.values())
        usd = (Decimal(rate.atto).scaleb(-18).quantize(Decimal("1e-12")) if rate else None for rate in rates)
        yield entry.key, canonical(entry.provider), begin, end, *usd, version
        begin = end


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def sync(client: Any, where: Target, prices: Prices) -> int:
    """Write the prices in force to `llm_prices`; returns how many rows.

    Raises:
        DatabaseError: ClickHouse refused them.
    """
    from clickhouse_connect.driver.exceptions import Error

    rows = list(listed(prices))
    current = {(row[0], row[2]) for row in rows}
    names = ["price_key", "valid_from", "is_deleted"]
    try:
        known = client.query(f"SELECT price_key, valid_from FROM `{where.database}`.llm_prices FINAL").result_rows
        gone = [[key, at.replace(tzinfo=UTC), 1] for key, at in known if (key, at.replace(tzinfo=UTC)) not in current]
        if gone:
            client.insert(f"`{where.database}`.llm_prices", gone, column_names=names,
                          column_type_names=["String", "DateTime('UTC')", "UInt8"])  # fmt: skip
        client.insert(
            f"`{where.database}`.llm_prices", rows, column_names=list(COLUMNS), column_type_names=list(COLUMNS.values())
        )
    except Error as error:
        raise DatabaseError(f"writing prices to {where.shown} failed: {reason(error)}") from error
    return len(rows)
