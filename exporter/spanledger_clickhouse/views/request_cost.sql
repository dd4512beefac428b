-- Cost of each request of the application: all its calls, late ones included.
CREATE OR REPLACE VIEW {db}.request_cost AS
SELECT
    c.request_id                                      AS request_id,
    any(c.feature)                                    AS feature,
    any(c.user_id)                                    AS user_id,
    sum(c.cost_usd)                                   AS total_cost_usd,
    count()                                           AS calls,
    sum(c.total_tokens)                               AS tokens,
    min(c.start_time)                                 AS first_call,
    groupUniqArray(c.model)                           AS models,
    groupUniqArray(c.trace_id)                        AS trace_ids,
    countIf(c.unpriced_reason != '')                  AS unpriced_calls
FROM {db}.llm_calls AS c FINAL
WHERE isNotNull(c.request_id) AND {window}
GROUP BY c.request_id
ORDER BY total_cost_usd DESC NULLS LAST
