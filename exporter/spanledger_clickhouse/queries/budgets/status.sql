-- The spend of a budget in a period, by value of its dimension, with the forecast from the daily burn rate.
WITH
    toDateTime({as_of:DateTime64(6, 'UTC')}, 'UTC') AS as_of,
    {since:DateTime('UTC')} AS period_start,
    {period_end:DateTime('UTC')} AS period_end,
    {amount:Float64} AS amount
SELECT value, spent_usd, projected_usd, projected_low_usd, projected_high_usd, exhausted_at, exhausted_earliest, exhausted_latest
FROM
(
    SELECT *, {forecast}
    FROM
    (
        SELECT s.value AS value, s.spent_usd AS spent_usd, toFloat64(s.spent_usd) AS spent,
            {rate} AS daily_burn_rate, d.daily AS daily
        FROM
        (
            SELECT {value} AS value, ifNull(sum({cost}), 0) AS spent_usd
            FROM {source}
            WHERE {time} >= {since:DateTime('UTC')} AND {time} < {until:DateTime64(6, 'UTC')} AND {scope}
            {by_value}
        ) AS s
        LEFT JOIN ({burn_rates}) AS d ON d.value = s.value
    )
)
ORDER BY spent_usd DESC, value
