-- Cost of a unit of the application's own work (`spanledger.unit("pdf", quantity=50, unit="page")`): of a document, and of
-- each of its pages.
CREATE OR REPLACE VIEW {db}.unit_cost AS
SELECT
    unit,
    measure,
    count()                                           AS units,
    sum(cost)                                         AS total_cost_usd,
    sum(quantity)                                     AS total_quantity,
    toFloat64(total_cost_usd) / nullIf(total_quantity, 0) AS cost_per_measure_usd,
    quantileExact(0.5)(cost)                          AS p50_unit_cost_usd,
    quantileExact(0.95)(cost)                         AS p95_unit_cost_usd,
    sum(calls)                                        AS total_calls
FROM
(
    SELECT
        c.unit_name                                   AS unit,
        c.unit_measure                                AS measure,
        c.unit_id                                     AS id,
        sum(ifNull(c.cost_usd, 0))                    AS cost,
        ifNull(max(c.unit_quantity), 0)               AS quantity,
        count()                                       AS calls
    FROM {db}.llm_calls AS c FINAL
    WHERE isNotNull(c.unit_name) AND {window}
    GROUP BY unit, measure, id
)
GROUP BY unit, measure
ORDER BY total_cost_usd DESC
