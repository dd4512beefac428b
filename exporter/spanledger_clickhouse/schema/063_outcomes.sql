-- What became of a request or a unit of work (`spanledger.outcome`): the last statement of its name counts.
CREATE TABLE IF NOT EXISTS {db}.outcomes{on_cluster}
(
    tenant_id  LowCardinality(String),
    kind       LowCardinality(String),  -- ticket, document, ...
    outcome_id String,                  -- the application's name of the thing
    status     LowCardinality(String),  -- accepted, rejected, ...
    accepted   UInt8,                   -- whether it was what the work was for
    value_usd  Nullable(Decimal(18, 6)),-- what it is worth, where that is known
    request_id String,
    unit_id    String,
    trace_id   String,
    at         DateTime64(6, 'UTC'),
    inserted_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = {engine}ReplacingMergeTree({engine_args}at)
PARTITION BY toYYYYMM(at)
ORDER BY (tenant_id, kind, outcome_id)
