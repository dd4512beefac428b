-- Months that are closed (`spanledger close`): what invoice and ledger said, and what explains the difference.
CREATE TABLE IF NOT EXISTS {db}.closed_months{on_cluster}
(
    month           Date,
    provider        LowCardinality(String),
    invoiced_usd    Decimal(38, 12),
    ledger_usd      Decimal(38, 12), -- at the time of closing
    calls           UInt64,
    adjustments_usd Decimal(38, 12), -- corrections of earlier closed months, which this one carries
    causes          Map(String, Decimal(38, 12)),
    unexplained_usd Decimal(38, 12),
    closed_by       String,
    note            String,
    is_open         UInt8 DEFAULT 0, -- opened again
    closed_at       DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}closed_at)
ORDER BY (month, provider)
