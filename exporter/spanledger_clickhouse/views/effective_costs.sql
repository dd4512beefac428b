-- Cost by month and consumer at list price, at the negotiated price, and with what contracts add or take: credits, commitments that
-- were not used up, capacity, seats. Flat amounts are shared by use: of capacity, the list price of what ran on it; of seats, the
-- calls; of credits and commitments, the negotiated cost. Where nobody used them, the row has no consumer.
CREATE OR REPLACE VIEW {db}.effective_costs AS
WITH
    (SELECT groupArray((toString(provider), model, since, until, toDecimal64(percent, 6))) FROM {db}.contracts FINAL WHERE kind = 'discount') AS discounts,
    costs AS
    (
        SELECT month, provider, model, team, feature, tenant_id, service,
               sum(list) AS list_usd, sum(list * (1 - toFloat64(discount) / 100)) AS contracted_usd, sum(prepaid) AS prepaid_usd, sum(n) AS calls, sum(unpriced) AS unpriced
        FROM
        (
            SELECT
                toDate(c.start_time) AS day, toStartOfMonth(day) AS month, toString(c.provider) AS provider, c.model AS model,
                {fragment:assignments/team} AS team, toString(c.feature) AS feature,
                toString(c.tenant_id) AS tenant_id, toString(c.service) AS service,
                toFloat64(ifNull(sum(c.cost_usd), 0)) AS list,
                toFloat64(ifNull(sumIf(c.computed_cost_usd, c.price_status = 'prepaid'), 0)) AS prepaid,
                count() AS n, countIf(c.unpriced_reason != '') AS unpriced,
                {fragment:contracts/discount} AS discount
            FROM {db}.llm_calls AS c FINAL
            {fragment:assignments/joined}
            GROUP BY day, provider, model, team, feature, tenant_id, service
        )
        GROUP BY month, provider, model, team, feature, tenant_id, service
    ),
    flats AS
    (
        SELECT name, toString(kind) AS kind, toString(provider) AS provider, model, toFloat64(amount_usd) AS amount,
               arrayJoin(arrayMap(i -> addMonths(toStartOfMonth(since), i),
                   range(toUInt64(greatest(0, dateDiff('month', toStartOfMonth(since), least(until, toDate(now('UTC')) + 1) - 1) + 1))))) AS month
        FROM {db}.contracts FINAL
        WHERE kind != 'discount'
    ),
    matched AS
    (
        SELECT f.name AS name, f.kind AS kind, f.amount AS amount, f.month AS month, f.provider AS contract_provider,
               if(c.calls = 0, f.provider, c.provider) AS provider, if(c.calls = 0, f.model, c.model) AS model,
               c.team AS team, c.feature AS feature, c.tenant_id AS tenant_id, c.service AS service,
               multiIf(c.calls = 0, 0., f.kind = 'capacity', c.prepaid_usd, f.kind = 'seats', toFloat64(c.calls), c.contracted_usd) AS weight
        FROM flats AS f
        LEFT JOIN costs AS c ON c.month = f.month AND (f.provider IN ('', c.provider))
            AND (f.model IN ('', c.model) OR startsWith(c.model, concat(f.model, '-20')) OR (endsWith(f.model, '*') AND startsWith(c.model, substring(f.model, 1, length(f.model) - 1))))
    ),
    bases AS
    (
        SELECT name, kind, month, any(contract_provider) AS provider, any(amount) AS amount, sum(weight) AS base,
               sum(base) OVER (PARTITION BY name ORDER BY month ROWS UNBOUNDED PRECEDING) AS used,
               multiIf(kind = 'credit', least(amount, used - base) - least(amount, used), kind = 'commitment', if(month >= toStartOfMonth(now('UTC')), 0., greatest(0., amount - base)), amount) AS flat
        FROM matched
        GROUP BY name, kind, month
    )
SELECT
    month, provider, model, team, feature, tenant_id, service,
    sum(list)                                         AS list_usd,
    sum(contracted)                                   AS contracted_usd,
    sum(flat)                                         AS amortised_usd,
    sum(contracted) + sum(flat)                       AS effective_usd,
    sum(n)                                            AS calls,
    sum(unpriced)                                     AS unpriced_calls
FROM
(
    SELECT toDateTime(month, 'UTC') AS start_time, month, provider, model, team, feature, tenant_id, service, list_usd AS list, contracted_usd AS contracted, 0. AS flat, calls AS n, unpriced
    FROM costs
    UNION ALL
    SELECT toDateTime(m.month, 'UTC'), m.month, if(b.base > 0, m.provider, b.provider), if(b.base > 0, m.model, ''), if(b.base > 0, m.team, NULL), if(b.base > 0, m.feature, NULL), if(b.base > 0, m.tenant_id, ''), if(b.base > 0, m.service, ''), 0., 0.,
           if(b.base > 0, b.flat * m.weight / b.base, b.flat / count() OVER (PARTITION BY m.name, m.month)), 0, 0
    FROM matched AS m
    INNER JOIN bases AS b ON b.name = m.name AND b.month = m.month
    WHERE b.flat != 0
) AS c
WHERE {window} -- months, by their first day: what credits and commitments are used up by is all that was before
GROUP BY month, provider, model, team, feature, tenant_id, service
ORDER BY month, effective_usd DESC
