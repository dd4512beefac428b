SELECT {value} AS value, toDate({time}) AS day, toFloat64(sum({cost})) AS cost
FROM {source}
WHERE {time} >= {begin} AND {time} < {end} AND isNotNull({cost}) AND {scope}
GROUP BY value, day
