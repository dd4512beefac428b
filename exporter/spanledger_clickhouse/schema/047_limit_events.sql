-- Who stopped what, and let it go on (spanledger stop, spanledger resume).
CREATE TABLE IF NOT EXISTS {db}.limit_events{on_cluster}
(
    at        DateTime64(3, 'UTC') DEFAULT now64(3),
    kind      LowCardinality(String), -- stop, resume
    dimension LowCardinality(String), -- tenant, tier, feature, user
    key       String,
    who       String, -- user@host of the command
    reason    String DEFAULT ''
)
ENGINE = {engine}MergeTree({global_args})
ORDER BY (at, dimension, key)
