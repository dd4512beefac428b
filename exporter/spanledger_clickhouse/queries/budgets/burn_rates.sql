SELECT value, {burn_rate}
FROM ({days})
GROUP BY value
