-- Reads what kafka-produce.yaml writes with SPANLEDGER_KAFKA_ENCODING=otlp_json: a message is one ExportTraceServiceRequest.
-- Offsets are committed after the rows are: a message that is read again gives the same rows of llm_calls. A message that is not
-- JSON goes to otel_kafka_refused.
CREATE TABLE IF NOT EXISTS {db}.otel_kafka{on_cluster} (body String)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = '{brokers}',
    kafka_topic_list = '{topic}',
    kafka_group_name = '{group}',
    kafka_format = 'JSONAsString',
    kafka_num_consumers = 1,
    kafka_handle_error_mode = 'stream',
    kafka_max_block_size = 65536,
    kafka_flush_interval_ms = 2000
