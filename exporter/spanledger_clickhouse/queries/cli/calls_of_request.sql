SELECT start_time, feature, user_id, provider, c.model AS model, c.input_tokens AS input_tokens,
       c.output_tokens AS output_tokens, cost_usd, price_status, attempts, outcome, trace_id
FROM llm_calls AS c FINAL
WHERE request_id = {id:String}
ORDER BY start_time
