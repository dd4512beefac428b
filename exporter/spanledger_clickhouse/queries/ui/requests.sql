-- Requests of a window, the most expensive first.
SELECT c.request_id AS request_id, sum(c.cost_usd) AS total_cost_usd, count() AS calls, sum(c.attempts) AS attempts,
       countIf(c.outcome != 'ok') AS failed_calls, any(c.user_id) AS user_id, any(c.feature) AS feature, min(c.start_time) AS began,
       max(c.start_time + toIntervalMicrosecond(c.duration_us)) - began AS seconds
FROM llm_calls AS c FINAL {joins}
WHERE c.start_time >= {since:DateTime64(6, 'UTC')} AND c.start_time < {until:DateTime64(6, 'UTC')} AND isNotNull(c.request_id){filters}
GROUP BY request_id
ORDER BY total_cost_usd DESC NULLS LAST, request_id
LIMIT {limit:UInt32}
