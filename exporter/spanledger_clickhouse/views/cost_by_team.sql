-- Cost of each team or cost centre: what a call says, else what its feature, else its service is assigned to. NULL: nobody's.
CREATE OR REPLACE VIEW {db}.cost_by_team AS
SELECT
    {fragment:assignments/team} AS team,
    sum(c.cost_usd)                                   AS total_cost_usd,
    count()                                           AS calls,
    total_cost_usd / nullIf(countIf(isNotNull(c.cost_usd)), 0) AS mean_cost_usd,
    sum(c.total_tokens)                               AS tokens,
    countIf(c.unpriced_reason != '')                  AS unpriced_calls
FROM {db}.llm_calls AS c FINAL
{fragment:assignments/joined}
WHERE {window}
GROUP BY team
ORDER BY total_cost_usd DESC NULLS LAST
