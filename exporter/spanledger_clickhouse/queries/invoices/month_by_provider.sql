SELECT toString(c.provider) AS provider, ifNull(sum(c.cost_usd), 0) AS cost, count(), groupUniqArrayIf(toDate(c.start_time), c.cost_usd != 0)
FROM llm_calls AS c FINAL
WHERE c.start_time >= {first:Date} AND c.start_time < {end:Date}
GROUP BY provider
HAVING cost != 0 OR countIf(c.unpriced_reason != '') > 0
