SELECT
    toDate(c.start_time)                                                 AS bucket,
    c.tenant_id                                                          AS tenant_id,
    ifNull(c.user_id, '')                                                AS user_id,
    ifNull(c.feature, '')                                                AS feature,
    count()                                                              AS calls,
    countIf(startsWith(c.price_status, 'unpriced:'))                     AS unpriced_calls,
    sum(c.total_tokens)                                                  AS tokens,
    sum(ifNull(c.cost_usd, 0))                                           AS cost_usd,
    max(ifNull(c.cost_usd, 0))                                           AS max_cost_usd
FROM {db}.llm_calls AS c FINAL
WHERE {window}
GROUP BY bucket, tenant_id, user_id, feature
