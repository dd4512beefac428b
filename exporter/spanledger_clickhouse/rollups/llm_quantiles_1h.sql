SELECT
    toStartOfHour(c.start_time)                                          AS bucket,
    ifNull(c.environment, '')                                            AS environment,
    c.provider                                                           AS provider,
    if(c.response_model = '', c.request_model, c.response_model)         AS model,
    count()                                                              AS calls,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(toFloat64(ifNull(c.cost_usd, 0)), isNotNull(c.cost_usd)) AS cost,
    quantilesTDigestState(0.5, 0.95, 0.99)(c.duration_us / 1e6)          AS duration,
    quantilesTDigestStateIf(0.5, 0.95, 0.99)(ifNull(c.time_to_first_chunk_us, 0) / 1e6, isNotNull(c.time_to_first_chunk_us)) AS time_to_first_chunk
FROM {db}.llm_calls AS c FINAL
WHERE {window}
GROUP BY bucket, environment, provider, model
