-- What may be spent, on what, in which time (UTC).
CREATE TABLE IF NOT EXISTS {db}.budgets{on_cluster}
(
    name       String,
    scope      LowCardinality(String), -- global, tenant, tier, feature, user
    key        String,                 -- which tenant, tier, feature or user; '' of a global budget
    period     LowCardinality(String), -- day, month
    amount_usd Decimal(18, 6),
    thresholds Array(Float64) DEFAULT [0.8, 0.9, 0.95, 1.0],
    updated_at DateTime64(3, 'UTC') DEFAULT now64(3),
    is_deleted UInt8 DEFAULT 0
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}updated_at, is_deleted)
ORDER BY name
