-- Cost of each user, and their most expensive call.
CREATE OR REPLACE VIEW {db}.cost_by_user AS
SELECT
    user_id,
    sum(c.cost_usd)                                   AS total_cost_usd,
    count()                                           AS calls,
    total_cost_usd / nullIf(countIf(isNotNull(c.cost_usd)), 0) AS mean_cost_usd,
    max(c.cost_usd)                                   AS max_cost_usd,
    sum(c.total_tokens)                               AS tokens,
    countIf(c.unpriced_reason != '')                  AS unpriced_calls
FROM {db}.llm_calls AS c FINAL
WHERE {window}
GROUP BY user_id
ORDER BY total_cost_usd DESC NULLS LAST
