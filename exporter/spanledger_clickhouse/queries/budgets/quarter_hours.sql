SELECT toStartOfFifteenMinutes(c.start_time) AS quarter, {value} AS value, sum(c.cost_usd)
FROM llm_calls AS c FINAL
WHERE c.start_time >= {since:DateTime('UTC')} AND isNotNull(c.cost_usd) AND {scope}
GROUP BY quarter, value
ORDER BY quarter
