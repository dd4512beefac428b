SELECT evidence, ifNull(sum(total_cost_usd), 0) AS cost_usd, toUInt64(sum(calls)) AS calls
FROM price_evidence_between(since = {since_text}, until = {until_text})
GROUP BY evidence ORDER BY cost_usd DESC
