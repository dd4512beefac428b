-- Who stopped what, let it go on, and changed which budget (spanledger stop, resume, budget).
CREATE TABLE IF NOT EXISTS {db}.limit_events{on_cluster}
(
    at        DateTime64(3, 'UTC') DEFAULT now64(3),
    kind      LowCardinality(String), -- stop, resume, set, remove
    dimension LowCardinality(String), -- tenant, tier, feature, user, budget
    key       String,
    who       String, -- user@host of the command
    reason    String DEFAULT ''
)
ENGINE = {engine}MergeTree({global_args})
ORDER BY (at, dimension, key)
