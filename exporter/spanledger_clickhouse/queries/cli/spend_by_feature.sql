SELECT feature, total_cost_usd, calls, mean_cost_usd, p95_cost_usd, unpriced_calls
FROM cost_by_feature
LIMIT {limit:UInt32}
