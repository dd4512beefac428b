-- Rates that are or were in force, by the key of the price table (price_key of a call): `spanledger prices sync`.
CREATE TABLE IF NOT EXISTS {db}.llm_prices{on_cluster}
(
    price_key          String,
    provider           LowCardinality(String),
    valid_from         DateTime('UTC'),
    valid_to           DateTime('UTC') DEFAULT toDateTime('2106-01-01 00:00:00', 'UTC'), -- exclusive
    input_usd          Nullable(Decimal(18, 12)), -- USD a token, as all of these
    cache_read_usd     Nullable(Decimal(18, 12)),
    cache_write_usd    Nullable(Decimal(18, 12)),
    cache_write_1h_usd Nullable(Decimal(18, 12)),
    output_usd         Nullable(Decimal(18, 12)),
    price_version      String,
    updated_at         DateTime64(3, 'UTC') DEFAULT now64(3),
    is_deleted         UInt8 DEFAULT 0
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}updated_at, is_deleted)
ORDER BY (price_key, valid_from)
