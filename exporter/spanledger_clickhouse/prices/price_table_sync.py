"""Syncs current prices to `llm_prices` and `llm_rates`, for SQL: savings, bounds, Collector-only setups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final

from spanledger.pricing.model_names import Match, canonical, namespace, resolve
from spanledger.pricing.price import ATTO_PER_PICO
from spanledger.pricing.price_table import Prices
from spanledger.pricing.rates import TIERS, Entry, rates_for
from spanledger.semconv.usage import INPUT_RATE, OUTPUT_RATE, READ_RATE, WRITE_RATE
from spanledger_clickhouse.database.connection import DatabaseError, Target, reason
from spanledger_clickhouse.database.statements import statement

BEGINNING: Final = datetime(2020, 1, 1, tzinfo=UTC)
END: Final = datetime(2106, 1, 1, tzinfo=UTC)

RATE_FIELDS: Final = {
    "input_usd": (INPUT_RATE, 0),
    "cache_read_usd": (READ_RATE, 0),
    "cache_write_usd": (WRITE_RATE, 0),
    "cache_write_1h_usd": (WRITE_RATE, 1),
    "output_usd": (OUTPUT_RATE, 0),
}
"""Column -> (field of LiteLLM's table, hours that a cache entry lives)."""

PRICE_COLUMNS: Final = {
    "price_key": "String",
    "provider": "LowCardinality(String)",
    "valid_from": "DateTime('UTC')",
    "valid_to": "DateTime('UTC')",
    **dict.fromkeys(RATE_FIELDS, "Nullable(Decimal(18, 12))"),
    "price_version": "String",
}


def llm_price_rows(prices: Prices) -> Iterator[tuple[Any, ...]]:
    """Rows of `llm_prices`: models priced per token, former prices included; standard tier, no long context."""
    visited_keys: set[str] = set()
    for table in prices.tables:
        for key in table.models:
            entry = table.entry(key) if key not in visited_keys else None
            visited_keys.add(key)
            if entry is not None and any((base, hours, 0, "") in entry.fields for base, hours in RATE_FIELDS.values()):
                yield from _validity_rows(entry, table.version)


def _validity_rows(entry: Entry, version: str) -> Iterator[tuple[Any, ...]]:
    begin = BEGINNING
    for until, former in (*entry.former_entries, (None, entry)):
        end = _midnight(until) if until else END
        rates = (former.fields.get((base, hours, 0, "")) for base, hours in RATE_FIELDS.values())
        usd = (Decimal(rate.atto).scaleb(-18).quantize(Decimal("1e-12")) if rate else None for rate in rates)
        yield entry.key, canonical(entry.provider), begin, end, *usd, version
        begin = end


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


SQL_METERS: Final = {
    "input": "input", "audio_input": "input_audio", "cache_read": "cache_read", "cache_write": "cache_write",
    "cache_write_1h": "cache_write_1h", "output": "output", "audio_output": "output_audio", "reasoning": "reasoning",
}  # fmt: skip
"""Column of `llm_rates` (and long_, and _usd) -> meter."""
RATE_COLUMNS: Final = {
    "provider": "LowCardinality(String)",
    "model": "String",
    "tier": "LowCardinality(String)",
    "valid_from": "DateTime('UTC')",
    "valid_to": "DateTime('UTC')",
    "price_key": "String",
    "price_version": "String",
    "long_above": "UInt32",
    **{f"{prefix}{name}_usd": "Nullable(Decimal(18, 12))" for prefix in ("", "long_") for name in SQL_METERS},
}
TIER_NAMES: Final = ("", *dict.fromkeys(TIERS.values()))


def llm_rate_rows(prices: Prices) -> Iterator[tuple[Any, ...]]:
    """Rows of `llm_rates`: the rates that `quote` charges per token, by exactly matching model names.

    Left out are models whose rates depend on the time of day, on brackets or on more than one length of context, or
    are no whole number of picodollars: there, a product in SQL would not be the price.
    """
    names: dict[tuple[str, str], None] = {}
    for table in prices.tables:
        for key in table.models:
            entry = table.entry(key)
            if entry is not None:
                provider = canonical(entry.provider)
                for prefix in ("", *namespace(provider).prefixes):
                    if key.startswith(prefix):
                        names[provider, key.removeprefix(prefix)] = None
    for provider, name in names:
        match = resolve(prices, provider, (name,))
        if isinstance(match, Match) and match.flags in (("exact",), ("alias",), ("archived",)):
            yield from _rate_rows(provider, name, match.entry, match.table.version)


def _rate_rows(provider: str, name: str, entry: Entry, version: str) -> Iterator[tuple[Any, ...]]:
    begin = BEGINNING
    for until, former in (*entry.former_entries, (None, entry)):
        end = _midnight(until) if until else END
        standard = _rates(former, "")
        for tier in TIER_NAMES:
            row = (standard if not tier else _rates(former, tier)) or (0, *(None for _ in range(2 * len(SQL_METERS))))
            if row != standard or not tier:  # without rates: no other tier's rates apply to it
                yield provider, name, tier, begin, end, entry.key, version, *row
        begin = end


def _rates(entry: Entry, tier: str) -> tuple[Any, ...] | None:
    """(long_above, rates, long rates); None if SQL cannot express them."""
    if entry.off_peak or entry.brackets or len(entry.thresholds) > 1:
        return None
    above = entry.thresholds[0] if entry.thresholds else 0
    rates_usd: list[Decimal | None] = []
    for crossed in (0, above):
        plan = rates_for(entry, tier, crossed)
        for meter in SQL_METERS.values():
            rate = plan[meter]
            if rate is not None and rate.atto % ATTO_PER_PICO:
                return None
            rates_usd.append(Decimal(rate.atto).scaleb(-18).quantize(Decimal("1e-12")) if rate is not None else None)
    return (above, *rates_usd) if any(rate is not None for rate in rates_usd) else None


def sync(client: Any, target: Target, prices: Prices) -> int:
    """Write the current prices to `llm_prices` and `llm_rates`; returns how many rows.

    Raises:
        DatabaseError: ClickHouse refused them.
    """
    from clickhouse_connect.driver.exceptions import Error

    try:
        written = _replace_rows(
            client, target, "llm_prices", PRICE_COLUMNS, ("price_key", "valid_from"), list(llm_price_rows(prices))
        ) + _replace_rows(
            client,
            target,
            "llm_rates",
            RATE_COLUMNS,
            ("provider", "model", "tier", "valid_from"),
            list(llm_rate_rows(prices)),
        )
        with suppress(Error):  # without the privilege the server itself reads them again, within a minute
            for (name,) in client.query(
                statement("prices/dictionaries"), parameters={"db": target.database}
            ).result_rows:
                client.command(f"SYSTEM RELOAD DICTIONARY `{target.database}`.{name}")
    except Error as error:
        raise DatabaseError(f"writing prices to {target.masked_dsn} failed: {reason(error)}") from error
    return written


def _replace_rows(
    client: Any,
    target: Target,
    table: str,
    columns: Mapping[str, str],
    key: tuple[str, ...],
    rows: list[tuple[Any, ...]],
) -> int:
    """Replace the content of the table with the rows."""
    name = f"`{target.database}`.{table}"
    key_indexes = [list(columns).index(column) for column in key]
    current = {tuple(row[place] for place in key_indexes) for row in rows}
    stored_keys = client.query(f"SELECT {', '.join(key)} FROM {name} FINAL").result_rows
    deletions = [(*row, 1) for row in stored_keys if row not in current]
    types = [columns[column] for column in key]
    if deletions:
        client.insert(name, deletions, column_names=[*key, "is_deleted"], column_type_names=[*types, "UInt8"])
    client.insert(name, rows, column_names=list(columns), column_type_names=list(columns.values()))
    return len(rows)
