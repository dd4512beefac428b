SELECT project, total_cost_usd, calls, mean_cost_usd, tokens, unpriced_calls
FROM cost_by_project
LIMIT {limit:UInt32}
