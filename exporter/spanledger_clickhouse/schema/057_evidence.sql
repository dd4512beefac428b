-- low_cost_usd, high_cost_usd: bounds of a cost that is an estimate, where they are known. evidence: exact, estimated, reported (the
-- provider's own figure), unpriced, or '' where nothing was billed. A name that was only found in another spelling is an estimate, too.
ALTER TABLE {db}.llm_calls{on_cluster}
    ADD COLUMN IF NOT EXISTS low_cost_usd Nullable(Decimal(18, 12)) CODEC(ZSTD(1)) AFTER avoided_cost_usd,
    ADD COLUMN IF NOT EXISTS high_cost_usd Nullable(Decimal(18, 12)) CODEC(ZSTD(1)) AFTER low_cost_usd,
    ADD COLUMN IF NOT EXISTS evidence LowCardinality(String) ALIAS multiIf(
        startsWith(price_status, 'unpriced:'), 'unpriced',
        price_status = 'provider_reported', 'reported',
        isNull(cost_usd), '',
        hasAny(price_flags, ['estimated', 'variant', 'home_vendor', 'proxy', 'tier_estimated', 'batch_estimated']) OR usage_source = 'partial', 'estimated',
        'exact')
