SELECT {column} AS {name}, sum(c.cost_usd) AS cost_usd, count() AS calls,
       sum(c.cost_usd) * 60 / {minutes:UInt32} AS per_hour_usd,
       countIf(c.outcome != 'ok') AS failed, countIf(c.unpriced_reason != '') AS unpriced, max(c.start_time) AS last_call
FROM llm_calls AS c FINAL
WHERE c.start_time > now64(6) - toIntervalMinute({minutes:UInt32})
GROUP BY {name}
ORDER BY cost_usd DESC NULLS LAST, calls DESC
LIMIT {top:UInt32}
