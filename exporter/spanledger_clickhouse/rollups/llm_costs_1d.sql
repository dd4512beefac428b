SELECT
    toDate(c.start_time)                                                 AS bucket,
    c.tenant_id                                                          AS tenant_id,
    ifNull(c.customer_tier, '')                                          AS customer_tier,
    ifNull(c.environment, '')                                            AS environment,
    c.service                                                            AS service,
    ifNull(c.feature, '')                                                AS feature,
    c.provider                                                           AS provider,
    if(c.response_model = '', c.request_model, c.response_model)         AS model,
    count()                                                              AS calls,
    countIf(c.outcome = 'error')                                         AS errors,
    countIf(startsWith(c.price_status, 'unpriced:'))                     AS unpriced_calls,
    sum(c.total_tokens)                                                  AS tokens,
    sum(ifNull(c.cost_usd, 0))                                           AS cost_usd
FROM {db}.llm_calls AS c FINAL
WHERE {window}
GROUP BY bucket, tenant_id, customer_tier, environment, service, feature, provider, model
