-- What was alerted lately, and what became of it.
SELECT alert, min(at) AS at, any(budget) AS budget, any(value) AS value, any(threshold) AS threshold, any(spent_usd) AS spent_usd,
       any(amount_usd) AS amount_usd, arrayStringConcat(arraySort(groupUniqArrayIf(toString(state), state != 'claimed')), ', ') AS state
FROM budget_alerts
GROUP BY alert
ORDER BY at DESC
LIMIT 50
