-- The ledger: one row per billed response of an LLM provider, or per failed call.
-- Sorting key = identity of a span: only columns that never change, so a redelivered or corrected row
-- replaces its earlier version (read with FINAL). Token meters are disjoint: any total is a plain sum.
-- A cost of NULL is unknown and says why in price_status; 0 is free of charge.
CREATE TABLE IF NOT EXISTS {db}.llm_calls{on_cluster}
(
    -- identity
    tenant_id              LowCardinality(String) DEFAULT '' CODEC(ZSTD(1)),
    start_time             DateTime64(6, 'UTC') CODEC(T64, ZSTD(1)),
    trace_id               String CODEC(ZSTD(1)),
    span_id                String CODEC(ZSTD(1)),
    parent_span_id         String CODEC(ZSTD(1)),
    response_id            String CODEC(ZSTD(1)),
    process_id             String CODEC(ZSTD(1)),
    sequence               Nullable(UInt64) CODEC(ZSTD(1)),

    -- attribution: NULL is missing, and attribution_reason says why
    service                LowCardinality(String) CODEC(ZSTD(1)),
    environment            LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    feature                LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    user_id                Nullable(String) CODEC(ZSTD(1)),
    request_id             Nullable(String) CODEC(ZSTD(1)),
    session_id             Nullable(String) CODEC(ZSTD(1)),
    conversation_id        Nullable(String) CODEC(ZSTD(1)),
    customer_tier          LowCardinality(Nullable(String)) CODEC(ZSTD(1)),
    labels                 Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    unit_name              LowCardinality(Nullable(String)) CODEC(ZSTD(1)), -- a unit of the application's own work
    unit_id                String CODEC(ZSTD(1)),
    unit_quantity          Nullable(Float64) CODEC(ZSTD(1)),
    unit_measure           LowCardinality(String) CODEC(ZSTD(1)),
    attribution_reason     LowCardinality(String) CODEC(ZSTD(1)),
    context_lost_at        LowCardinality(String) CODEC(ZSTD(1)), -- ingress: the trace came from elsewhere, its baggage did not
    code_file              String CODEC(ZSTD(1)),
    code_line              UInt32 CODEC(ZSTD(1)),
    code_function          String CODEC(ZSTD(1)),

    -- what was called
    provider               LowCardinality(String) CODEC(ZSTD(1)),
    operation              LowCardinality(String) CODEC(ZSTD(1)),
    request_model          LowCardinality(String) CODEC(ZSTD(1)),
    response_model         LowCardinality(String) CODEC(ZSTD(1)),
    server_address         LowCardinality(String) CODEC(ZSTD(1)),
    service_tier           LowCardinality(String) CODEC(ZSTD(1)),
    inference_geo          LowCardinality(String) CODEC(ZSTD(1)),
    speed                  LowCardinality(String) CODEC(ZSTD(1)),
    media_size             LowCardinality(String) CODEC(ZSTD(1)), -- of an image or a video made
    media_quality          LowCardinality(String) CODEC(ZSTD(1)),
    is_streaming           Bool,
    is_batch               Bool,
    temperature            Nullable(Float64) CODEC(ZSTD(1)),
    max_tokens             Nullable(UInt32) CODEC(ZSTD(1)),
    prompt_name            LowCardinality(String) CODEC(ZSTD(1)),
    prompt_hash            String CODEC(ZSTD(1)),

    -- usage
    input_uncached_tokens  UInt32 CODEC(T64, ZSTD(1)),
    input_audio_tokens     UInt32 CODEC(T64, ZSTD(1)),
    input_image_tokens     UInt32 CODEC(T64, ZSTD(1)),
    input_video_tokens     UInt32 CODEC(T64, ZSTD(1)),
    cache_read_tokens      UInt32 CODEC(T64, ZSTD(1)),
    cache_read_audio_tokens UInt32 CODEC(T64, ZSTD(1)),
    cache_read_image_tokens UInt32 CODEC(T64, ZSTD(1)),
    cache_read_video_tokens UInt32 CODEC(T64, ZSTD(1)),
    cache_write_tokens     UInt32 CODEC(T64, ZSTD(1)),
    cache_write_1h_tokens  UInt32 CODEC(T64, ZSTD(1)),
    cache_write_12h_tokens UInt32 CODEC(T64, ZSTD(1)),
    output_text_tokens     UInt32 CODEC(T64, ZSTD(1)),
    output_audio_tokens    UInt32 CODEC(T64, ZSTD(1)),
    output_image_tokens    UInt32 CODEC(T64, ZSTD(1)),
    output_video_tokens    UInt32 CODEC(T64, ZSTD(1)),
    reasoning_tokens       UInt32 CODEC(T64, ZSTD(1)), -- of output_text_tokens
    web_searches           UInt32 CODEC(T64, ZSTD(1)),
    file_searches          UInt32 CODEC(T64, ZSTD(1)),
    code_sessions          UInt32 CODEC(T64, ZSTD(1)),
    maps_queries           UInt32 CODEC(T64, ZSTD(1)),
    images                 UInt32 CODEC(T64, ZSTD(1)),
    audio_input_ms         UInt32 CODEC(T64, ZSTD(1)),
    audio_output_ms        UInt32 CODEC(T64, ZSTD(1)),
    video_output_ms        UInt32 CODEC(T64, ZSTD(1)),
    characters             UInt32 CODEC(T64, ZSTD(1)),
    pages                  UInt32 CODEC(T64, ZSTD(1)),
    queries                UInt32 CODEC(T64, ZSTD(1)),
    training_tokens        UInt32 CODEC(T64, ZSTD(1)),
    reported_total_tokens  Nullable(UInt64) CODEC(ZSTD(1)),
    usage_source           LowCardinality(String) CODEC(ZSTD(1)), -- exact, partial, missing

    -- cost in USD, to the picodollar
    cost_usd               Nullable(Decimal(18, 12)) CODEC(ZSTD(1)),
    input_cost_usd         Nullable(Decimal(18, 12)) CODEC(ZSTD(1)),
    cache_read_cost_usd    Nullable(Decimal(18, 12)) CODEC(ZSTD(1)),
    cache_write_cost_usd   Nullable(Decimal(18, 12)) CODEC(ZSTD(1)),
    output_cost_usd        Nullable(Decimal(18, 12)) CODEC(ZSTD(1)),
    tools_cost_usd         Nullable(Decimal(18, 12)) CODEC(ZSTD(1)),
    other_cost_usd         Nullable(Decimal(18, 12)) CODEC(ZSTD(1)),
    computed_cost_usd      Nullable(Decimal(18, 12)) CODEC(ZSTD(1)), -- the table's figure where the provider's is the price
    price_status           LowCardinality(String) CODEC(ZSTD(1)),
    price_key              LowCardinality(String) CODEC(ZSTD(1)),
    price_source           LowCardinality(String) CODEC(ZSTD(1)),
    price_version          LowCardinality(String) CODEC(ZSTD(1)),
    price_flags            Array(LowCardinality(String)) CODEC(ZSTD(1)),

    -- what happened
    duration_us            UInt64 CODEC(T64, ZSTD(1)),
    time_to_first_chunk_us Nullable(UInt64) CODEC(ZSTD(1)),
    outcome                LowCardinality(String) CODEC(ZSTD(1)), -- ok, error, aborted
    error_type             LowCardinality(String) CODEC(ZSTD(1)),
    finish_reasons         Array(LowCardinality(String)) CODEC(ZSTD(1)),
    attempts               UInt16 CODEC(T64, ZSTD(1)),
    attempt_status         Array(LowCardinality(String)) CODEC(ZSTD(1)),
    attempt_duration_us    Array(UInt64) CODEC(ZSTD(1)),
    attempt_billed         Array(LowCardinality(String)) CODEC(ZSTD(1)), -- yes, no, unknown

    usage_json             String CODEC(ZSTD(3)),
    attributes             Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    scope                  LowCardinality(String) CODEC(ZSTD(1)),
    source                 LowCardinality(String) DEFAULT 'spool' CODEC(ZSTD(1)),
    inserted_at            DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta(8), ZSTD(1)),
    row_version            UInt64 DEFAULT toUnixTimestamp64Milli(now64(3)) CODEC(Delta(8), ZSTD(1)),

    model                  String ALIAS if(response_model = '', request_model, response_model),
    input_tokens           UInt64 ALIAS toUInt64(input_uncached_tokens) + input_audio_tokens + input_image_tokens + input_video_tokens + cache_read_tokens + cache_read_audio_tokens + cache_read_image_tokens + cache_read_video_tokens + cache_write_tokens + cache_write_1h_tokens + cache_write_12h_tokens,
    output_tokens          UInt64 ALIAS toUInt64(output_text_tokens) + output_audio_tokens + output_image_tokens + output_video_tokens,
    total_tokens           UInt64 ALIAS input_tokens + output_tokens,
    unpriced_reason        String ALIAS if(startsWith(price_status, 'unpriced:'), substring(price_status, 10), ''),

    INDEX ix_trace    trace_id    TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX ix_request  request_id  TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX ix_session  session_id  TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX ix_response response_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX ix_user     user_id     TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX ix_inserted inserted_at TYPE minmax GRANULARITY 1
)
ENGINE = {engine}ReplacingMergeTree({engine_args}row_version)
PARTITION BY toYYYYMM(start_time)
PRIMARY KEY (toStartOfHour(start_time), tenant_id)
ORDER BY (toStartOfHour(start_time), tenant_id, trace_id, span_id)
SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1,
         min_age_to_force_merge_seconds = 86400, min_age_to_force_merge_on_partition_only = 1
