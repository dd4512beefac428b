SELECT window_start, value, threshold, min(at) AS first, countIf(state = 'delivered') > 0
FROM budget_alerts WHERE budget = {name:String}
GROUP BY window_start, value, threshold ORDER BY first
