-- The calls of a request, in order.
SELECT c.start_time AS start_time, toString(c.provider) AS provider, c.model AS model, c.feature AS feature, c.user_id AS user_id,
       c.input_tokens AS input_tokens, c.output_tokens AS output_tokens, c.cost_usd AS cost_usd, c.price_status AS price_status,
       c.attempts AS attempts, c.outcome AS outcome, c.trace_id AS trace_id, c.span_id AS span_id,
       c.duration_us AS duration_us, c.time_to_first_chunk_us AS time_to_first_chunk_us
FROM llm_calls AS c FINAL
WHERE c.request_id = {request:String}
ORDER BY start_time, span_id
LIMIT 1000
