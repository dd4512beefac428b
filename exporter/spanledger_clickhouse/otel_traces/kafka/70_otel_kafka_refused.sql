-- Messages that are not JSON, as they came.
CREATE TABLE IF NOT EXISTS {db}.otel_kafka_refused{on_cluster}
(
    at DateTime DEFAULT now(), topic LowCardinality(String), partition UInt64, offset UInt64, error String, message String
)
ENGINE = {engine}MergeTree({engine_args})
ORDER BY (topic, partition, offset)
TTL at + INTERVAL 30 DAY
