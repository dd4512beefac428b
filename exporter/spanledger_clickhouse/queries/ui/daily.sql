-- Cost by day, from the rollup.
SELECT toDate(bucket) AS day, sum(cost_usd) AS total_cost_usd, toUInt64(sum(calls)) AS calls
FROM llm_costs
WHERE bucket >= {since:DateTime('UTC')} AND bucket < {until:DateTime('UTC')}
GROUP BY day
ORDER BY day
