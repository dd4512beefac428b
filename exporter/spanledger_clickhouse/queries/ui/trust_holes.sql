SELECT service, host, sum(missing_rows) AS missing_rows, sum(missing_cost_usd) AS missing_cost_usd, countIf(announced = 0) AS unannounced_holes
FROM ledger_holes
GROUP BY service, host
ORDER BY missing_rows DESC
LIMIT 50
