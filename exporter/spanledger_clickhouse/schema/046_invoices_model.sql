-- Invoices are split by model as well, where the report says it.
ALTER TABLE {db}.invoices{on_cluster} ADD COLUMN IF NOT EXISTS model LowCardinality(String) AFTER project, MODIFY ORDER BY (day, provider, project, model)
