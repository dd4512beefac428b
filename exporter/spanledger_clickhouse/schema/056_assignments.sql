-- Whose a service or a feature is, where its calls do not say so (`spanledger assign`). Applied when read: the past follows.
CREATE TABLE IF NOT EXISTS {db}.assignments{on_cluster}
(
    dimension    LowCardinality(String), -- team, project
    by_dimension LowCardinality(String), -- service, feature
    value        String,                 -- of the service or the feature
    assigned     String,
    updated_at   DateTime64(3, 'UTC') DEFAULT now64(3),
    is_deleted   UInt8 DEFAULT 0
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}updated_at, is_deleted)
ORDER BY (dimension, by_dimension, value)
