-- Every cost that was changed after the fact: what it was, what it is, by which prices (`spanledger reprice`).
CREATE TABLE IF NOT EXISTS {db}.corrections{on_cluster}
(
    at                DateTime64(3, 'UTC') DEFAULT now64(3),
    start_time        DateTime64(6, 'UTC'),
    tenant_id         LowCardinality(String),
    trace_id          String,
    span_id           String,
    model             LowCardinality(String),
    old_cost_usd      Nullable(Decimal(18, 12)),
    new_cost_usd      Nullable(Decimal(18, 12)),
    old_price_status  LowCardinality(String),
    new_price_status  LowCardinality(String),
    old_price_key     LowCardinality(String),
    new_price_key     LowCardinality(String),
    old_price_version LowCardinality(String),
    new_price_version LowCardinality(String)
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}at)
PARTITION BY toYYYYMM(start_time)
ORDER BY (toStartOfHour(start_time), tenant_id, trace_id, span_id, new_price_version, ifNull(old_cost_usd, -1), ifNull(new_cost_usd, -1))
