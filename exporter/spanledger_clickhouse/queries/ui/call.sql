SELECT *, c.model, c.input_tokens, c.output_tokens, c.evidence, c.low_cost_usd, c.high_cost_usd
FROM llm_calls AS c FINAL
WHERE c.trace_id = {trace:String} AND c.span_id = {span:String}
LIMIT 1
