-- What was agreed with a provider beside its price list (`spanledger contract`).
-- discount: percent off. credit: amount_usd in total, used up as it is spent. commitment: amount_usd a month at least.
-- capacity: amount_usd a month for throughput that is paid by time. seats: amount_usd a month for plans.
CREATE TABLE IF NOT EXISTS {db}.contracts{on_cluster}
(
    name       String,
    kind       LowCardinality(String),
    provider   LowCardinality(String),           -- '' any
    model      String,                           -- '' any, 'gpt-5*' those that begin so
    percent    Decimal(9, 6) DEFAULT 0,
    amount_usd Decimal(18, 6) DEFAULT 0,
    since      Date,
    until      Date DEFAULT toDate('2149-06-06'), -- exclusive
    note       String,
    who        String,
    updated_at DateTime64(3, 'UTC') DEFAULT now64(3),
    is_deleted UInt8 DEFAULT 0
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}updated_at, is_deleted)
ORDER BY name
