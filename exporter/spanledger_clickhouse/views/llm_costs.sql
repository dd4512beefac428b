-- Spend by hour: closed hours from the rollup, the rest from the calls. NULL: unknown.
CREATE OR REPLACE VIEW {db}.llm_costs AS
WITH (SELECT max(closed_until) FROM {db}.llm_costs_1h WHERE bucket = (SELECT max(bucket) FROM {db}.llm_costs_1h)) AS closed
SELECT
    bucket, nullIf(environment, '') AS environment, service, nullIf(feature, '') AS feature, provider, model,
    calls, errors, retried_calls, unpriced_calls, unattributed_calls,
    input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    cost_usd, input_cost_usd, cache_read_cost_usd, cache_write_cost_usd, output_cost_usd, unattributed_cost_usd, duration_us
FROM {db}.llm_costs_1h
WHERE bucket < closed
UNION ALL
SELECT
    bucket, nullIf(environment, '') AS environment, service, nullIf(feature, '') AS feature, provider, model,
    calls, errors, retried_calls, unpriced_calls, unattributed_calls,
    input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    cost_usd, input_cost_usd, cache_read_cost_usd, cache_write_cost_usd, output_cost_usd, unattributed_cost_usd, duration_us
FROM ({rollup:llm_costs_1h:c.start_time >= closed})
