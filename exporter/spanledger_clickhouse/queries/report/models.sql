SELECT provider, model, if(n = sum(unpriced_calls), NULL, sum(cost_usd)) AS cost, toUInt64(sum(calls)) AS n FROM llm_costs
WHERE bucket >= {since} AND bucket < {until} GROUP BY provider, model ORDER BY cost DESC NULLS LAST, n DESC LIMIT 10
