SELECT DISTINCT toDate(start_time) AS day
FROM {db}.llm_calls
WHERE start_time < {closed:DateTime('UTC')}
    AND start_time >= (SELECT max(closed_until) FROM {db}.llm_costs_1h WHERE bucket = (SELECT max(bucket) FROM {db}.llm_costs_1h))
