-- As spend.sql, of whole hours and of the dimensions that the rollup has.
SELECT {names}, if(calls = unpriced_calls, NULL, sumIf(c.cost_usd, c.start_time >= {since:DateTime64(6, 'UTC')})) AS total_cost_usd,
       toUInt64(sumIf(c.calls, c.start_time >= {since:DateTime64(6, 'UTC')})) AS calls,
       total_cost_usd / nullIf(calls - unpriced_calls, 0) AS mean_cost_usd,
       {compared}sumIf(c.input_tokens + c.output_tokens, c.start_time >= {since:DateTime64(6, 'UTC')}) AS tokens,
       toUInt64(sumIf(c.unpriced_calls, c.start_time >= {since:DateTime64(6, 'UTC')})) AS unpriced_calls
FROM (SELECT *, bucket AS start_time FROM llm_costs) AS c
WHERE c.start_time >= {before:DateTime64(6, 'UTC')} AND c.start_time < {until:DateTime64(6, 'UTC')}
  AND (c.start_time < {before_until:DateTime64(6, 'UTC')} OR c.start_time >= {since:DateTime64(6, 'UTC')}){filters}
GROUP BY {groups}
HAVING calls > 0{also}
ORDER BY {order}
LIMIT {limit:UInt32}
