-- Spend by hour, without users and tenants: about one row for 40 calls. Rebuilt by day, never incremented (rollups.py).
-- '' in environment and feature stands for NULL, which a sorting key does not hold; the view llm_costs turns it back.
CREATE TABLE IF NOT EXISTS {db}.llm_costs_1h{on_cluster}
(
    bucket               DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    environment          LowCardinality(String),
    service              LowCardinality(String),
    feature              LowCardinality(String),
    provider             LowCardinality(String),
    model                LowCardinality(String),
    calls                UInt64 CODEC(T64, ZSTD(1)),
    errors               UInt64 CODEC(T64, ZSTD(1)),
    retried_calls        UInt64 CODEC(T64, ZSTD(1)),
    unpriced_calls       UInt64 CODEC(T64, ZSTD(1)),
    unattributed_calls   UInt64 CODEC(T64, ZSTD(1)),
    input_tokens         UInt64 CODEC(T64, ZSTD(1)),
    cache_read_tokens    UInt64 CODEC(T64, ZSTD(1)),
    cache_write_tokens   UInt64 CODEC(T64, ZSTD(1)),
    output_tokens        UInt64 CODEC(T64, ZSTD(1)),
    reasoning_tokens     UInt64 CODEC(T64, ZSTD(1)),
    cost_usd             Decimal(38, 12) CODEC(ZSTD(1)),
    input_cost_usd       Decimal(38, 12) CODEC(ZSTD(1)),
    cache_read_cost_usd  Decimal(38, 12) CODEC(ZSTD(1)),
    cache_write_cost_usd Decimal(38, 12) CODEC(ZSTD(1)),
    output_cost_usd      Decimal(38, 12) CODEC(ZSTD(1)),
    unattributed_cost_usd Decimal(38, 12) CODEC(ZSTD(1)),
    duration_us          UInt64 CODEC(T64, ZSTD(1)),
    closed_until         DateTime('UTC') CODEC(ZSTD(1)) -- calls from here on are not in this day's rows
)
ENGINE = {engine}MergeTree({global_args})
PARTITION BY toDate(bucket)
ORDER BY (bucket, environment, service, feature, provider, model)
