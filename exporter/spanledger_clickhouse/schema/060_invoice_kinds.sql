-- kind: '' (usage), tax, credit, refund, commitment. rounding_usd: how much the amount may be off because of its decimals.
ALTER TABLE {db}.invoices{on_cluster}
    ADD COLUMN IF NOT EXISTS kind LowCardinality(String) AFTER model,
    ADD COLUMN IF NOT EXISTS rounding_usd Decimal(18, 12) AFTER amount_usd,
    MODIFY ORDER BY (day, provider, project, model, kind)
