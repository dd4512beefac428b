SELECT toDate(bucket) AS day, sum(cost_usd) FROM llm_costs
WHERE bucket >= {first} AND bucket < {until} GROUP BY day
