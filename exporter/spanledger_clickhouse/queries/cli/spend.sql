-- Spend of a window by any dimensions; previous_cost_usd is that of as long a window before.
SELECT {names}, sumIf(c.cost_usd, c.start_time >= {since:DateTime64(6, 'UTC')}) AS total_cost_usd,
       countIf(c.start_time >= {since:DateTime64(6, 'UTC')}) AS calls,
       total_cost_usd / nullIf(countIf(isNotNull(c.cost_usd) AND c.start_time >= {since:DateTime64(6, 'UTC')}), 0) AS mean_cost_usd,
       {compared}sumIf(c.total_tokens, c.start_time >= {since:DateTime64(6, 'UTC')}) AS tokens,
       countIf(c.unpriced_reason != '' AND c.start_time >= {since:DateTime64(6, 'UTC')}) AS unpriced_calls
FROM llm_calls AS c FINAL {joins}
WHERE c.start_time >= {before:DateTime64(6, 'UTC')} AND c.start_time < {until:DateTime64(6, 'UTC')}
  AND (c.start_time < {before_until:DateTime64(6, 'UTC')} OR c.start_time >= {since:DateTime64(6, 'UTC')}){filters}
GROUP BY {groups}
HAVING calls > 0{also}
ORDER BY {order}
LIMIT {limit:UInt32}
