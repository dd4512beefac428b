-- What negotiated discounts take off the list price.
WITH (SELECT groupArray((toString(provider), model, since, until, toFloat64(percent))) FROM contracts FINAL WHERE kind = 'discount') AS discounts
SELECT day, provider, project, model, toDecimal128(sum(list * discount / 100), 12) AS taken
FROM
(
    SELECT toDate(c.start_time) AS day, toString(c.provider) AS provider, ifNull(toString({project}), '') AS project, c.model AS model,
           toFloat64(ifNull(sum(c.cost_usd), 0)) AS list,
           arrayMax(arrayPushBack(arrayMap(d -> d.5, arrayFilter(d -> (d.1 IN ('', provider)) AND (d.2 IN ('', model) OR startsWith(model, concat(d.2, '-20')) OR (endsWith(d.2, '*') AND startsWith(model, substring(d.2, 1, length(d.2) - 1)))) AND day >= d.3 AND day < d.4, discounts)), 0.)) AS discount
    FROM llm_calls AS c FINAL
    WHERE c.start_time >= {first:Date} AND c.start_time < {last:Date} + 1
    GROUP BY day, provider, project, model
)
WHERE discount > 0
GROUP BY day, provider, project, model
