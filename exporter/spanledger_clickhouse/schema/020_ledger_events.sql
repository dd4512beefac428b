-- What processes tell of themselves: where their numbers begin and end, and which rows found no place.
CREATE TABLE IF NOT EXISTS {db}.ledger_events{on_cluster}
(
    process_id    String CODEC(ZSTD(1)),
    kind          LowCardinality(String), -- start, loss, end
    at            DateTime64(6, 'UTC') CODEC(Delta(8), ZSTD(1)),
    service       LowCardinality(String),
    host          LowCardinality(String),
    sequence      Nullable(UInt64) CODEC(ZSTD(1)), -- of an end: the number that the next row would have had
    lost_rows     UInt64 CODEC(ZSTD(1)),
    lost_from     Nullable(UInt64) CODEC(ZSTD(1)),
    lost_to       Nullable(UInt64) CODEC(ZSTD(1)),
    lost_cost_usd Decimal(18, 12) CODEC(ZSTD(1)),
    inserted_at   DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta(8), ZSTD(1))
)
ENGINE = {engine}ReplacingMergeTree({engine_args}inserted_at)
PARTITION BY toYYYYMM(at)
ORDER BY (process_id, kind, at)
SETTINGS non_replicated_deduplication_window = 1000
