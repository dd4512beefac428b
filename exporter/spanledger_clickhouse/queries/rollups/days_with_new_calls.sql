SELECT DISTINCT toDate(start_time) AS day
FROM {db}.llm_calls
WHERE inserted_at >= {since:DateTime64(3, 'UTC')} AND start_time < {closed:DateTime('UTC')}
ORDER BY day
