-- avoided_cost_usd: what an answer that came from a cache would have cost. job_id: the batch, video, run or background
-- response whose result the call is.
ALTER TABLE {db}.llm_calls{on_cluster}
    ADD COLUMN IF NOT EXISTS avoided_cost_usd Nullable(Decimal(18, 12)) CODEC(ZSTD(1)) AFTER computed_cost_usd,
    ADD COLUMN IF NOT EXISTS job_id String CODEC(ZSTD(1)) AFTER attempt_billed
