-- The spend of the month in which a report ends, and its forecast: by the same rule as the status of a budget.
WITH
    {as_of} AS as_of,
    toDateTime(toStartOfMonth(as_of - 1), 'UTC') AS period_start,
    toDateTime(toStartOfMonth(as_of - 1) + INTERVAL 1 MONTH, 'UTC') AS period_end,
    toFloat64({budget}) AS amount
SELECT spent, projected_usd, projected_low_usd, projected_high_usd, exhausted_at
FROM
(
    SELECT *, {forecast}
    FROM
    (
        SELECT sumIf(cost, day >= toDate(period_start)) AS spent, {burn_rate}
        FROM
        (
            SELECT toDate(bucket) AS day, toFloat64(sum(cost_usd)) AS cost
            FROM llm_costs
            WHERE bucket >= toStartOfDay(as_of) - INTERVAL 32 DAY AND bucket < {until}
            GROUP BY day
        )
    )
)
