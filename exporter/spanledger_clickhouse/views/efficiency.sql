-- Token efficiency by feature, with hints where a rule of thumb suggests savings.
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
    countIf({fragment:calls/truncated}) / count() AS truncation_rate,
    quantileExactIf(0.5)(ifNull(c.max_tokens, 0), isNotNull(c.max_tokens)) AS median_max_tokens,
    arrayFilter(hint -> hint != '', [
        if(p95_input_tokens >= 10 * mean_input_tokens, 'some inputs are ten times the mean: is their size unbounded?', ''),
        if(truncation_rate > 0.05, 'more than 5 % of the responses are truncated at max_tokens: they are billed, and rarely useful', ''),
        if(mean_output_per_input > 1, 'more output than input: output is the more expensive part; ask for shorter responses', ''),
        if(median_max_tokens > 2 * p95_output_tokens, 'max_tokens is more than twice the 95th percentile of the output', '')
    ])                                                AS hints
FROM {db}.llm_calls AS c FINAL
WHERE c.outcome != 'error' AND {window}
GROUP BY feature
ORDER BY calls DESC
