CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.refused_of_otel_kafka{on_cluster} TO {db}.otel_kafka_refused AS
SELECT _topic AS topic, _partition AS partition, _offset AS offset, _error AS error, _raw_message AS message
FROM {db}.otel_kafka
WHERE _error != ''
