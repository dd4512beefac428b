SELECT toDate(bucket) AS day, sum(cost_usd) FROM llm_costs
WHERE bucket >= toStartOfDay({until} - 1) - INTERVAL 29 DAY AND bucket < {until} GROUP BY day
