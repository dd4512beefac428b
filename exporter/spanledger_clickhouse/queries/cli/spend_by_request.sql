SELECT request_id, feature, user_id, total_cost_usd, calls, tokens, models, unpriced_calls
FROM request_cost
LIMIT {limit:UInt32}
