-- The mean rate of a period, each day's weighted with its cost; and the days with cost that have none within ten days before.
SELECT sum(cost * rate) / nullIf(sum(cost), 0), groupArrayIf(day, rate = 0), max(day)
FROM
(
    SELECT c.day AS day, toFloat64(c.cost) AS cost,
           toFloat64(arrayFirst(r -> r.1 <= c.day AND r.1 >= c.day - 10, rates).2) AS rate
    FROM (SELECT toDate(bucket) AS day, sum(cost_usd) AS cost FROM llm_costs WHERE bucket >= {since} AND bucket < {until} GROUP BY day HAVING cost > 0) AS c
    CROSS JOIN (SELECT arrayReverseSort(r -> r.1, groupArray((day, per_usd))) AS rates FROM exchange_rates FINAL WHERE currency = {currency:String}) AS e
)
