-- As total.sql, of whole hours and of the dimensions that the rollup has; it does not know what caches have avoided.
SELECT sum(c.cost_usd) AS total_cost_usd, toUInt64(sum(c.calls)) AS calls, toUInt64(sum(c.unpriced_calls)) AS unpriced,
       sum(c.unattributed_cost_usd) AS unattributed_cost_usd, toUInt64(sum(c.unattributed_calls)) AS unattributed, NULL AS avoided_cost_usd, 0 AS cache_hits
FROM (SELECT *, bucket AS start_time FROM llm_costs) AS c
WHERE c.start_time >= {since:DateTime64(6, 'UTC')} AND c.start_time < {until:DateTime64(6, 'UTC')}{filters}
