-- What each tenant pays in a month, for margins. Filled by whoever knows.
CREATE TABLE IF NOT EXISTS {db}.revenue{on_cluster}
(
    month         Date, -- its first day
    tenant_id     LowCardinality(String),
    customer_tier LowCardinality(String) DEFAULT '',
    amount_usd    Decimal(18, 6),
    updated_at    DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}updated_at)
ORDER BY (month, tenant_id, customer_tier)
