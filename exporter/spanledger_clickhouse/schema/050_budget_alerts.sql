-- What was told of budgets, and what became of it (spanledger guard). Rows are only added; the last of an alert and a
-- destination says how it stands.
CREATE TABLE IF NOT EXISTS {db}.budget_alerts{on_cluster}
(
    alert       String,                  -- hash of budget, value, window, its start, amount and threshold
    state       LowCardinality(String),  -- claimed (somebody tells of it), delivered, dead (given up)
    destinations Array(LowCardinality(String)), -- of a claim: whom it will tell
    destination LowCardinality(String),  -- '' of a claim; slack, pagerduty, webhook, and a hash of the address
    at          DateTime64(3, 'UTC') DEFAULT now64(3),
    claim       String,                  -- who tells of it: the least of an alert does
    budget      String,
    value       String,                  -- of a budget per user, tenant, ...: whose
    window_start DateTime('UTC'),
    threshold   Float64,
    spent_usd   Decimal(18, 6),
    amount_usd  Decimal(18, 6),
    attempts    UInt16,
    error       String,
    payload     String CODEC(ZSTD(1))    -- JSON
)
ENGINE = {engine}MergeTree({global_args})
ORDER BY (alert, at)
