-- Cost of each model, with its tokens and the share of its input that was read from the cache.
CREATE OR REPLACE VIEW {db}.cost_by_model AS
SELECT
    provider,
    c.model                                           AS model,
    sum(c.cost_usd)                                   AS total_cost_usd,
    count()                                           AS calls,
    sum(c.input_tokens)                               AS input_tokens_total,
    sum(c.output_tokens)                              AS output_tokens_total,
    sum({sum:cache_read})
        / nullIf(input_tokens_total, 0)               AS cache_read_share,
    countIf(c.unpriced_reason != '')                  AS unpriced_calls
FROM {db}.llm_calls AS c FINAL
WHERE {window}
GROUP BY provider, model
ORDER BY total_cost_usd DESC NULLS LAST
