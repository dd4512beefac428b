-- Of the months closed before this one: what the ledger has now, less what was sealed, less what closed months have carried.
SELECT s.provider, l.now - s.sealed - s.carried AS amount
FROM
(
    SELECT toString(provider) AS provider, sumIf(ledger_usd, month < {month:Date}) AS sealed, sum(adjustments_usd) AS carried
    FROM closed_months FINAL
    WHERE NOT is_open
    GROUP BY provider
) AS s
LEFT JOIN
(
    SELECT toString(c.provider) AS provider, ifNull(sum(c.cost_usd), 0) AS now
    FROM llm_calls AS c FINAL
    WHERE (toStartOfMonth(c.start_time), toString(c.provider)) IN (SELECT month, toString(provider) FROM closed_months FINAL WHERE NOT is_open AND month < {month:Date})
    GROUP BY provider
) AS l ON l.provider = s.provider
