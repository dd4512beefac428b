SELECT DISTINCT toString(c.{column}) AS name FROM llm_calls AS c
WHERE c.start_time > now() - INTERVAL 90 DAY AND ifNull(toString(c.{column}), '') != '' LIMIT 10000
