-- What providers say a day has cost, for the comparison with the ledger. Filled by whoever has the invoice or the export.
CREATE TABLE IF NOT EXISTS {db}.invoices{on_cluster}
(
    day        Date, -- UTC, as the provider bills it
    provider   LowCardinality(String), -- gen_ai.provider.name
    project    String DEFAULT '', -- or workspace, API key, model: whatever the provider splits by
    amount_usd Decimal(18, 6),
    source     LowCardinality(String) DEFAULT '', -- which report says so
    updated_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}updated_at)
ORDER BY (day, provider, project)
