SELECT team, service, feature, provider, model, sum(calls), sum(unpriced_calls), sum(list_usd), sum(contracted_usd), sum(amortised_usd), sum(effective_usd) AS effective
FROM effective_costs
WHERE month = {month:Date}
GROUP BY team, service, feature, provider, model
ORDER BY team, effective DESC, feature, model
