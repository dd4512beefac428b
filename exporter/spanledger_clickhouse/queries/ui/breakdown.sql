-- Calls by one dimension, with what makes them cheap or dear: cache, retries, truncation, the slow and the expensive.
SELECT {name}, sum(c.cost_usd) AS total_cost_usd, count() AS calls, quantileExactIf(0.95)(c.cost_usd, isNotNull(c.cost_usd)) AS p95_cost_usd,
       sum(c.input_tokens) AS input_tokens, sum(c.output_tokens) AS output_tokens,
       sum({sum:cache_read}) / nullIf(input_tokens, 0) AS cache_read_share, countIf(c.attempts > 1) / calls AS retried_share,
       countIf({fragment:calls/truncated}) / calls AS truncated_share, countIf(c.outcome = 'error') / calls AS error_share,
       round(quantile(0.95)(c.duration_us) / 1e6, 2) AS p95_seconds,
       if(countIf(isNotNull(c.time_to_first_chunk_us)) = 0, NULL,
           round(quantileIf(0.95)(assumeNotNull(c.time_to_first_chunk_us), isNotNull(c.time_to_first_chunk_us)) / 1e6, 2)) AS first_chunk_seconds
FROM llm_calls AS c FINAL {joins}
WHERE c.start_time >= {since:DateTime64(6, 'UTC')} AND c.start_time < {until:DateTime64(6, 'UTC')}{filters}
GROUP BY {column}
ORDER BY total_cost_usd DESC NULLS LAST, {column}
LIMIT {limit:UInt32}
