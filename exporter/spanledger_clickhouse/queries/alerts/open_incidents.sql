-- Alerts that were delivered to a destination and are not resolved there.
SELECT alert, argMaxIf(payload, at, state = 'delivered')
FROM budget_alerts
WHERE at > now() - INTERVAL 40 DAY AND destination = {destination:String}
GROUP BY alert
HAVING countIf(state = 'delivered') > 0 AND maxIf(at, state = 'resolved') < maxIf(at, state = 'delivered')
LIMIT 1000
