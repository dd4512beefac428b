SELECT {value} AS value, sum({cost}) AS spent
FROM {source}
WHERE {time} >= {since:DateTime('UTC')} AND {time} < {until:DateTime64(6, 'UTC')} AND {scope}
GROUP BY value
HAVING isNotNull(spent)
ORDER BY spent DESC, value
