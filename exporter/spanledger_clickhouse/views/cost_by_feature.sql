-- Cost of each feature. A row whose feature is NULL is unattributed spend.
CREATE OR REPLACE VIEW {db}.cost_by_feature AS
SELECT
    feature,
    sum(c.cost_usd)                                   AS total_cost_usd,
    count()                                           AS calls,
    total_cost_usd / nullIf(countIf(isNotNull(c.cost_usd)), 0) AS mean_cost_usd,
    quantileExactIf(0.95)(c.cost_usd, isNotNull(c.cost_usd)) AS p95_cost_usd,
    avg(c.input_tokens)                               AS mean_input_tokens,
    avg(c.output_tokens)                              AS mean_output_tokens,
    countIf(c.unpriced_reason != '')                  AS unpriced_calls
FROM {db}.llm_calls AS c FINAL
WHERE {window}
GROUP BY feature
ORDER BY total_cost_usd DESC NULLS LAST
