SELECT
    toStartOfHour(c.start_time)                                          AS bucket,
    ifNull(c.environment, '')                                            AS environment,
    c.service                                                            AS service,
    ifNull(c.feature, '')                                                AS feature,
    c.provider                                                           AS provider,
    if(c.response_model = '', c.request_model, c.response_model)         AS model,
    count()                                                              AS calls,
    countIf(c.outcome = 'error')                                         AS errors,
    countIf(c.attempts > 1)                                              AS retried_calls,
    countIf(startsWith(c.price_status, 'unpriced:'))                     AS unpriced_calls,
    countIf(c.attribution_reason != '')                                  AS unattributed_calls,
    sum(c.input_tokens)                                                  AS input_tokens,
    sum({sum:cache_read}) AS cache_read_tokens,
    sum({sum:cache_write}) AS cache_write_tokens,
    sum(c.output_tokens)                                                 AS output_tokens,
    sum(toUInt64(c.reasoning_tokens))                                    AS reasoning_tokens,
    sum(ifNull(c.cost_usd, 0))                                           AS cost_usd,
    sum(ifNull(c.input_cost_usd, 0))                                     AS input_cost_usd,
    sum(ifNull(c.cache_read_cost_usd, 0))                                AS cache_read_cost_usd,
    sum(ifNull(c.cache_write_cost_usd, 0))                               AS cache_write_cost_usd,
    sum(ifNull(c.output_cost_usd, 0))                                    AS output_cost_usd,
    sumIf(ifNull(c.cost_usd, 0), c.attribution_reason != '')             AS unattributed_cost_usd,
    sum(c.duration_us)                                                   AS duration_us
FROM {db}.llm_calls AS c FINAL
WHERE {window}
GROUP BY bucket, environment, service, feature, provider, model
