SELECT user_id, total_cost_usd, calls, mean_cost_usd, max_cost_usd, tokens, unpriced_calls
FROM cost_by_user
LIMIT {limit:UInt32}
