-- Of the months closed before this one: what the ledger has now, of whichever provider, less what was sealed, less what months before
-- this one have carried.
SELECT l.provider, l.now - ifNull(s.sealed, 0) - ifNull(s.carried, 0) AS amount
FROM
(
    SELECT toString(c.provider) AS provider, ifNull(sum(c.cost_usd), 0) AS now
    FROM llm_calls AS c FINAL
    WHERE toStartOfMonth(c.start_time) IN (SELECT month FROM closed_months FINAL WHERE NOT is_open AND month < {month:Date})
    GROUP BY provider
    UNION ALL
    SELECT DISTINCT toString(provider), toDecimal128(0, 12) FROM closed_months FINAL
    WHERE NOT is_open AND month < {month:Date} AND provider NOT IN (
        SELECT c.provider FROM llm_calls AS c WHERE toStartOfMonth(c.start_time) IN (SELECT month FROM closed_months FINAL WHERE NOT is_open AND month < {month:Date}))
) AS l
LEFT JOIN
(
    SELECT toString(provider) AS provider, sum(ledger_usd) AS sealed, sum(adjustments_usd) AS carried
    FROM closed_months FINAL
    WHERE NOT is_open AND month < {month:Date}
    GROUP BY provider
) AS s ON s.provider = l.provider
