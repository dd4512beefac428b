-- Servers that speak a provider's format may count their jobs from one, each of them: there the server belongs to the id.
ALTER TABLE {db}.llm_jobs{on_cluster} ADD COLUMN IF NOT EXISTS server String CODEC(ZSTD(1)) AFTER parent_id, MODIFY ORDER BY (provider, job_id, tenant_id, server)
