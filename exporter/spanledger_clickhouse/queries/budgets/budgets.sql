SELECT name, scope, key, dimensions, per, period, zone, amount_usd, action, at, thresholds, fail_closed
FROM budgets FINAL ORDER BY name
