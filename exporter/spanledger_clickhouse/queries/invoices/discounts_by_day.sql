-- What negotiated discounts take off the list price.
WITH (SELECT groupArray((toString(provider), model, since, until, toDecimal64(percent, 6))) FROM contracts FINAL WHERE kind = 'discount') AS discounts
SELECT day, provider, project, model, toDecimal128(sum(list * toFloat64(discount) / 100), 12) AS taken
FROM
(
    SELECT toDate(c.start_time) AS day, toString(c.provider) AS provider, ifNull(toString({project}), '') AS project, c.model AS model,
           toFloat64(ifNull(sum(c.cost_usd), 0)) AS list,
           {discount} AS discount
    FROM llm_calls AS c FINAL
    WHERE c.start_time >= {first:Date} AND c.start_time < {last:Date} + 1
    GROUP BY day, provider, project, model
)
WHERE discount > 0
GROUP BY day, provider, project, model
