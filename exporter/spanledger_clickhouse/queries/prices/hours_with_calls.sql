SELECT DISTINCT toStartOfHour(start_time) AS hour
FROM {db}.llm_calls
WHERE start_time >= {since:DateTime64(6, 'UTC')} AND start_time < {until:DateTime64(6, 'UTC')}
ORDER BY hour
