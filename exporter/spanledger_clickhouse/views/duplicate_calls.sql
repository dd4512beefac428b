-- Responses of a provider that have more than one row: recorded by two instrumentors, or by hand as well.
CREATE OR REPLACE VIEW {db}.duplicate_calls AS
SELECT
    c.provider                                        AS provider,
    c.response_id                                     AS response_id,
    count()                                           AS total_rows,
    sum(c.cost_usd)                                   AS total_cost_usd,
    total_cost_usd - max(c.cost_usd)                  AS counted_twice_usd,
    groupUniqArray(c.scope)                           AS scopes,
    min(c.start_time)                                 AS first_call,
    groupUniqArray(c.trace_id)                        AS trace_ids
FROM {db}.llm_calls AS c FINAL
WHERE c.response_id != '' AND c.outcome = 'ok' AND {window}
GROUP BY provider, response_id
HAVING total_rows > 1
ORDER BY counted_twice_usd DESC NULLS LAST
