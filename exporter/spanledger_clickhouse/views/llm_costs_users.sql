-- Spend by day and user: closed hours from the rollup, the rest from the calls. A day may have two rows.
-- user_key is user_id with '' for NULL: a filter on it finds a user without reading the others.
CREATE OR REPLACE VIEW {db}.llm_costs_users AS
WITH (SELECT max(closed_until) FROM {db}.llm_costs_1d_user WHERE bucket = (SELECT max(bucket) FROM {db}.llm_costs_1d_user)) AS closed
SELECT bucket, tenant_id, r.user_id AS user_key, nullIf(r.user_id, '') AS user_id, nullIf(feature, '') AS feature, calls, unpriced_calls, tokens, cost_usd, max_cost_usd
FROM {db}.llm_costs_1d_user AS r
UNION ALL
SELECT bucket, tenant_id, r.user_id AS user_key, nullIf(r.user_id, '') AS user_id, nullIf(feature, '') AS feature, calls, unpriced_calls, tokens, cost_usd, max_cost_usd
FROM ({rollup:llm_costs_1d_user:c.start_time >= closed}) AS r
