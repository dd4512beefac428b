SELECT sum(c.cost_usd) AS total_cost_usd, count() AS calls, countIf(c.unpriced_reason != '') AS unpriced,
       sumIf(c.cost_usd, c.attribution_reason != '') AS unattributed_cost_usd,
       countIf(c.attribution_reason != '') AS unattributed, sum(c.avoided_cost_usd) AS avoided_cost_usd,
       countIf(c.price_status = 'cache_hit') AS cache_hits
FROM llm_calls AS c FINAL {joins}
WHERE c.start_time >= {since:DateTime64(6, 'UTC')} AND c.start_time < {until:DateTime64(6, 'UTC')}{filters}
