SELECT evidence, doubts, sum(calls) AS calls, sum(total_cost_usd) AS total_cost_usd, sum(low_usd) AS low_usd, sum(high_usd) AS high_usd
FROM price_evidence_between(since = {since:DateTime('UTC')}, until = {until:DateTime('UTC')})
GROUP BY evidence, doubts
ORDER BY total_cost_usd DESC NULLS LAST
LIMIT 50
