-- Spend by day with the tenant and its tier.
CREATE TABLE IF NOT EXISTS {db}.llm_costs_1d{on_cluster}
(
    bucket               Date CODEC(Delta(2), ZSTD(1)),
    tenant_id            LowCardinality(String),
    customer_tier        LowCardinality(String),
    environment          LowCardinality(String),
    service              LowCardinality(String),
    feature              LowCardinality(String),
    provider             LowCardinality(String),
    model                LowCardinality(String),
    calls                UInt64 CODEC(T64, ZSTD(1)),
    errors               UInt64 CODEC(T64, ZSTD(1)),
    unpriced_calls       UInt64 CODEC(T64, ZSTD(1)),
    tokens               UInt64 CODEC(T64, ZSTD(1)),
    cost_usd             Decimal(38, 12) CODEC(ZSTD(1)),
    closed_until         DateTime('UTC') CODEC(ZSTD(1))
)
ENGINE = {engine}MergeTree({global_args})
PARTITION BY bucket
ORDER BY (bucket, tenant_id, customer_tier, environment, service, feature, provider, model)
