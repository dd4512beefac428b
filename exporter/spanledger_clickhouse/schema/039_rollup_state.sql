-- Up to which moment of arrival (inserted_at) the rollups have seen the calls.
CREATE TABLE IF NOT EXISTS {db}.rollup_state{on_cluster}
(
    name       LowCardinality(String),
    seen_until DateTime64(3, 'UTC'),
    at         DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}at)
ORDER BY name
