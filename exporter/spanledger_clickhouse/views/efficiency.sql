-- How tokens are spent, by feature, with hints where a rule of thumb says that money may be saved.
CREATE OR REPLACE VIEW {db}.efficiency AS
SELECT
    c.feature                                         AS feature,
    count()                                           AS calls,
    avg(c.input_tokens)                               AS mean_input_tokens,
    avg(c.output_tokens)                              AS mean_output_tokens,
    quantileExact(0.95)(c.input_tokens)               AS p95_input_tokens,
    quantileExact(0.95)(c.output_tokens)              AS p95_output_tokens,
    avg(c.output_tokens / nullIf(c.input_tokens, 0))  AS mean_output_per_input,
    sumMap(map(if(empty(c.finish_reasons), '', toString(c.finish_reasons[1])), toUInt64(1))) AS finish_reasons,
    countIf(lower(c.finish_reasons[1]) IN ('length', 'max_tokens', 'max_output_tokens', 'incomplete')) / count() AS truncation_rate,
    quantileExactIf(0.5)(ifNull(c.max_tokens, 0), isNotNull(c.max_tokens)) AS median_max_tokens,
    arrayFilter(hint -> hint != '', [
        if(p95_input_tokens >= 10 * mean_input_tokens, 'a few inputs are ten times the mean: is something unbounded put into them?', ''),
        if(truncation_rate > 0.05, 'more than 5 % of the answers are cut off at max_tokens: they are paid for and of little use', ''),
        if(mean_output_per_input > 1, 'more output than input: output is the dearer part, ask for less', ''),
        if(median_max_tokens > 2 * p95_output_tokens, 'max_tokens is more than twice what is used', '')
    ])                                                AS hints
FROM {db}.llm_calls AS c FINAL
WHERE c.outcome != 'error' AND {window}
GROUP BY feature
ORDER BY calls DESC
