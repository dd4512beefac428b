-- Spend by day and user; a partition is a day, so the key begins with the user.
CREATE TABLE IF NOT EXISTS {db}.llm_costs_1d_user{on_cluster}
(
    bucket               Date CODEC(Delta(2), ZSTD(1)),
    tenant_id            LowCardinality(String),
    user_id              String CODEC(ZSTD(1)),
    feature              LowCardinality(String),
    calls                UInt64 CODEC(T64, ZSTD(1)),
    unpriced_calls       UInt64 CODEC(T64, ZSTD(1)),
    tokens               UInt64 CODEC(T64, ZSTD(1)),
    cost_usd             Decimal(38, 12) CODEC(ZSTD(1)),
    max_cost_usd         Decimal(38, 12) CODEC(ZSTD(1)),
    closed_until         DateTime('UTC') CODEC(ZSTD(1))
)
ENGINE = {engine}MergeTree({global_args})
PARTITION BY bucket
ORDER BY (bucket, user_id, tenant_id, feature)
