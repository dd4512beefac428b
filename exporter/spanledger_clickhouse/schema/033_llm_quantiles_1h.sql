-- Quantiles of cost, duration and time to first chunk by hour and model, as sketches that merge. TDigest: DDSketch is
-- smaller and 2 % off. Few keys on purpose: merging many sketches costs as much as reading the calls.
CREATE TABLE IF NOT EXISTS {db}.llm_quantiles_1h{on_cluster}
(
    bucket               DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
    environment          LowCardinality(String),
    provider             LowCardinality(String),
    model                LowCardinality(String),
    calls                UInt64 CODEC(T64, ZSTD(1)),
    cost                 AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Float64) CODEC(ZSTD(1)), -- USD
    duration             AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Float64) CODEC(ZSTD(1)), -- seconds
    time_to_first_chunk  AggregateFunction(quantilesTDigest(0.5, 0.95, 0.99), Float64) CODEC(ZSTD(1)), -- seconds
    closed_until         DateTime('UTC') CODEC(ZSTD(1))
)
ENGINE = {engine}MergeTree({global_args})
PARTITION BY toDate(bucket)
ORDER BY (bucket, environment, provider, model)
