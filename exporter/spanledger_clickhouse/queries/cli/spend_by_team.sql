SELECT team, total_cost_usd, calls, mean_cost_usd, tokens, unpriced_calls
FROM cost_by_team
LIMIT {limit:UInt32}
