-- Rows that arrived more than an hour after their call ended: an outage, a laptop that was asleep, an old spool.
CREATE OR REPLACE VIEW {db}.late_rows AS
SELECT
    c.process_id                                                        AS process_id,
    c.service                                                           AS service,
    count()                                                             AS calls,
    sum(c.cost_usd)                                                     AS total_cost_usd,
    min(c.start_time)                                                   AS first_call,
    max(c.start_time)                                                   AS last_call,
    max(dateDiff('second', c.start_time, c.inserted_at))                AS longest_delay_s
FROM {db}.llm_calls AS c FINAL
WHERE c.inserted_at > c.start_time + toIntervalMicrosecond(c.duration_us) + INTERVAL 1 HOUR
    AND (c.trace_id, c.span_id) NOT IN (SELECT trace_id, span_id FROM {db}.corrections)
GROUP BY process_id, service
ORDER BY longest_delay_s DESC
