-- Who began a batch, a video, a run or a background response: its result may be seen days later, by another process. Of a
-- file of results, `parent_id` is the batch. `attribution` is column of llm_calls -> value.
CREATE TABLE IF NOT EXISTS {db}.llm_jobs{on_cluster}
(
    tenant_id   LowCardinality(String) CODEC(ZSTD(1)),
    provider    LowCardinality(String) CODEC(ZSTD(1)),
    job_id      String CODEC(ZSTD(1)),
    parent_id   String CODEC(ZSTD(1)),
    began_at    DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    attribution Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    inserted_at DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta(8), ZSTD(1))
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}inserted_at)
ORDER BY (provider, job_id, tenant_id)
