-- Every rate of a model as one row for each service tier, for pricing in SQL: `spanledger prices sync`. Models whose
-- price depends on the clock, on several lengths of context, or is no whole number of picodollars a token are left out.
CREATE TABLE IF NOT EXISTS {db}.llm_rates{on_cluster}
(
    provider            LowCardinality(String), -- gen_ai.provider.name
    model               String,                 -- as the provider, or LiteLLM's table, spells it
    tier                LowCardinality(String), -- '' standard, batches, flex, priority, ...: only where it differs
    valid_from          DateTime('UTC'),
    valid_to            DateTime('UTC'), -- exclusive
    price_key           String,
    price_version       String,
    long_above          UInt32, -- input tokens above which the long_ rates hold for the whole call; 0: never
    input_usd           Nullable(Decimal(18, 12)), -- USD a token, as all of these; NULL: no rate
    audio_input_usd     Nullable(Decimal(18, 12)),
    cache_read_usd      Nullable(Decimal(18, 12)),
    cache_write_usd     Nullable(Decimal(18, 12)),
    cache_write_1h_usd  Nullable(Decimal(18, 12)),
    output_usd          Nullable(Decimal(18, 12)),
    audio_output_usd    Nullable(Decimal(18, 12)),
    reasoning_usd       Nullable(Decimal(18, 12)),
    long_input_usd          Nullable(Decimal(18, 12)),
    long_audio_input_usd    Nullable(Decimal(18, 12)),
    long_cache_read_usd     Nullable(Decimal(18, 12)),
    long_cache_write_usd    Nullable(Decimal(18, 12)),
    long_cache_write_1h_usd Nullable(Decimal(18, 12)),
    long_output_usd         Nullable(Decimal(18, 12)),
    long_audio_output_usd   Nullable(Decimal(18, 12)),
    long_reasoning_usd      Nullable(Decimal(18, 12)),
    updated_at          DateTime64(3, 'UTC') DEFAULT now64(3),
    is_deleted          UInt8 DEFAULT 0
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}updated_at, is_deleted)
ORDER BY (provider, model, tier, valid_from)
