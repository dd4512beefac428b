CREATE TABLE IF NOT EXISTS {db}.schema_migrations{on_cluster}
(
    name String,
    checksum String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}applied_at)
ORDER BY name
