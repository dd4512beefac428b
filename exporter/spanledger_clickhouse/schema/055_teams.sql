-- The team or cost centre that pays, and the project, as the application says.
ALTER TABLE {db}.llm_calls{on_cluster}
    ADD COLUMN IF NOT EXISTS team LowCardinality(Nullable(String)) CODEC(ZSTD(1)) AFTER customer_tier,
    ADD COLUMN IF NOT EXISTS project LowCardinality(Nullable(String)) CODEC(ZSTD(1)) AFTER team
