SELECT provider, model, total_cost_usd, calls, input_tokens_total AS input_tokens,
       output_tokens_total AS output_tokens, cache_read_share, unpriced_calls
FROM cost_by_model
LIMIT {limit:UInt32}
