-- What one US dollar costs in another currency, by day: for invoices and reports in that currency.
CREATE TABLE IF NOT EXISTS {db}.exchange_rates{on_cluster}
(
    day        Date,
    currency   LowCardinality(String),
    per_usd    Decimal(38, 12),
    source     LowCardinality(String) DEFAULT '',
    updated_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}updated_at)
ORDER BY (currency, day)
