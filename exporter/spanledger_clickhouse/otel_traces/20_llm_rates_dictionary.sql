-- llm_rates for lookup by provider, model, tier and time. New prices are seen within a minute.
CREATE DICTIONARY IF NOT EXISTS {db}.llm_rates_dictionary{on_cluster}
(
    provider String, model String, tier String, valid_from DateTime, valid_to DateTime,
    price_key String, price_version String, long_above UInt32,
    rates Array(Nullable(Decimal(18, 12))), long_rates Array(Nullable(Decimal(18, 12)))
)
PRIMARY KEY provider, model, tier
SOURCE(CLICKHOUSE(QUERY 'SELECT provider, model, tier, valid_from, valid_to - 1 AS valid_to, price_key, price_version, long_above, [input_usd, audio_input_usd, cache_read_usd, cache_write_usd, cache_write_1h_usd, output_usd, audio_output_usd, reasoning_usd] AS rates, [long_input_usd, long_audio_input_usd, long_cache_read_usd, long_cache_write_usd, long_cache_write_1h_usd, long_output_usd, long_audio_output_usd, long_reasoning_usd] AS long_rates FROM {db}.llm_rates FINAL'))
LAYOUT(COMPLEX_KEY_RANGE_HASHED())
RANGE(MIN valid_from MAX valid_to)
LIFETIME(MIN 30 MAX 60)
