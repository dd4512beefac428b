-- What an accepted outcome costs (`spanledger.outcome`): all calls and charges of its requests or units, retries, failures and the
-- outcomes that were not accepted included. Of several outcomes of one request each has its share; one without calls costs nothing.
CREATE OR REPLACE VIEW {db}.cost_per_outcome AS
WITH
    by_tenant AS
    (
        SELECT toString(c.tenant_id) AS tenant_id, thing, sum(ifNull(c.cost_usd, 0)) AS cost, count() AS calls,
               countIf(c.outcome != 'ok') AS failed, countIf(c.unpriced_reason != '') AS unpriced
        FROM {db}.llm_calls AS c FINAL
        ARRAY JOIN arrayFilter(name -> name != '', [ifNull(c.request_id, ''), c.unit_id]) AS thing
        WHERE {window}
        GROUP BY tenant_id, thing
    ),
    spent AS
    (
        SELECT * FROM by_tenant
        UNION ALL -- an outcome that names no tenant has that of its request, if only one has it
        SELECT '', thing, any(cost), any(calls), any(failed), any(unpriced) FROM by_tenant
        GROUP BY thing HAVING uniqExact(tenant_id) = 1 AND any(tenant_id) != ''
    ),
    shares AS
    (
        SELECT toString(o.kind) AS kind, o.accepted AS accepted, o.value_usd AS value_usd,
               count() OVER (PARTITION BY o.tenant_id, thing) AS n, toFloat64(s.cost) / n AS cost, s.calls / n AS calls, s.failed / n AS failed, s.unpriced / n AS unpriced
        FROM (SELECT *, if(request_id != '', request_id, unit_id) AS thing FROM {db}.outcomes FINAL) AS o
        LEFT JOIN spent AS s ON s.tenant_id = toString(o.tenant_id) AND s.thing = o.thing
    )
SELECT
    kind,
    count()                                           AS outcomes,
    countIf(accepted)                                 AS accepted_outcomes,
    accepted_outcomes / outcomes                      AS accepted_share,
    sum(cost)                                         AS total_cost_usd,
    sumIf(cost, NOT accepted)                         AS not_accepted_cost_usd,
    total_cost_usd / nullIf(accepted_outcomes, 0)     AS cost_per_accepted_usd,
    toUInt64(round(sum(calls)))                                        AS calls,
    toUInt64(round(sum(failed)))                                       AS failed_calls,
    toUInt64(round(sum(unpriced)))                                     AS unpriced_calls,
    sumIf(toFloat64(value_usd), accepted)             AS total_value_usd
FROM shares
GROUP BY kind
ORDER BY total_cost_usd DESC
