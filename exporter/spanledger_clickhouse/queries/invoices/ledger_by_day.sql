SELECT toDate(c.start_time) AS day, toString(c.provider), ifNull(toString({project}), '') AS project, c.model AS model,
       ifNull(sum(c.cost_usd), 0), ifNull(sum(c.tools_cost_usd), 0), count(), countIf(c.unpriced_reason != ''),
       sumIf(c.total_tokens, isNotNull(c.cost_usd)), sumIf(c.total_tokens, c.unpriced_reason != ''),
       ifNull(sumIf(c.cost_usd, hasAny(c.price_flags, ['tier_estimated', 'batch_estimated'])), 0),
       sum(arrayCount(b -> b = 'unknown', c.attempt_billed))
FROM llm_calls AS c FINAL
WHERE c.start_time >= {first:Date} AND c.start_time < {last:Date} + 1
GROUP BY day, c.provider, project, model
