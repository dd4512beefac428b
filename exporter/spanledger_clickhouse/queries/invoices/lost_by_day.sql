SELECT toDate(last_call) AS day, sum(ifNull(missing_cost_usd, 0)) AS lost
FROM ledger_holes
WHERE last_call >= {first:Date} AND last_call < {last:Date} + 1
GROUP BY day
HAVING lost > 0
