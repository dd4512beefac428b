SELECT c.{column} AS {column}, sum(c.cost_usd) AS total_cost_usd, count() AS calls,
       total_cost_usd / nullIf(countIf(isNotNull(c.cost_usd)), 0) AS mean_cost_usd,
       sum(c.total_tokens) AS tokens, countIf(c.unpriced_reason != '') AS unpriced_calls
FROM llm_calls AS c FINAL
GROUP BY {column}
ORDER BY total_cost_usd DESC NULLS LAST, {column}
LIMIT {limit:UInt32}
