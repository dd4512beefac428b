-- Savings of the providers' prompt caches: the tokens read from them at the full rate, less what was paid, less what
-- writing them cost above the full rate. Needs `spanledger prices sync`; a call without a rate counts as unknown.
CREATE OR REPLACE VIEW {db}.cache_savings AS
SELECT
    c.feature                                         AS feature,
    c.model                                           AS model,
    sum(c.cached)                                     AS cache_read_tokens_total,
    sum(c.written)                                    AS cache_write_tokens_total,
    sum(c.cached) / nullIf(sum(c.all_input), 0)       AS hit_rate,
    sum(c.cached * p.input_usd - c.cache_read_cost_usd)   AS read_savings_usd,
    sum(c.cache_write_cost_usd - c.written * p.input_usd) AS write_surcharge_usd,
    read_savings_usd - write_surcharge_usd            AS net_savings_usd,
    countIf(isNull(p.input_usd) AND c.cached + c.written > 0) AS unknown_calls
FROM
(
    SELECT
        c.feature AS feature, c.model AS model, c.price_key AS price_key, toDateTime(c.start_time) AS at,
        {sum:cache_read} AS cached,
        {sum:cache_write} AS written,
        c.input_tokens AS all_input, c.cache_read_cost_usd AS cache_read_cost_usd, c.cache_write_cost_usd AS cache_write_cost_usd
    FROM {db}.llm_calls AS c FINAL
    WHERE {window}
) AS c
ASOF LEFT JOIN (SELECT price_key, valid_from, input_usd FROM {db}.llm_prices FINAL) AS p
    ON p.price_key = c.price_key AND c.at >= p.valid_from
GROUP BY feature, model
HAVING cache_read_tokens_total + cache_write_tokens_total > 0
ORDER BY net_savings_usd DESC
