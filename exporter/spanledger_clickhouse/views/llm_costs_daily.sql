-- Spend by day, tenant and tier: closed hours from the rollup, the rest from the calls. A day may have two rows.
CREATE OR REPLACE VIEW {db}.llm_costs_daily AS
WITH (SELECT max(closed_until) FROM {db}.llm_costs_1d WHERE bucket = (SELECT max(bucket) FROM {db}.llm_costs_1d)) AS closed
SELECT
    bucket, tenant_id, nullIf(customer_tier, '') AS customer_tier, nullIf(environment, '') AS environment, service,
    nullIf(feature, '') AS feature, provider, model, calls, errors, unpriced_calls, tokens, cost_usd
FROM {db}.llm_costs_1d
UNION ALL
SELECT
    bucket, tenant_id, nullIf(customer_tier, '') AS customer_tier, nullIf(environment, '') AS environment, service,
    nullIf(feature, '') AS feature, provider, model, calls, errors, unpriced_calls, tokens, cost_usd
FROM ({rollup:llm_costs_1d:c.start_time >= closed})
