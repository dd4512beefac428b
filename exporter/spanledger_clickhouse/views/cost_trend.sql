-- Trend of spend by feature over the last 28 full days: week over week, and the slope over four weeks as the median of the
-- differences between the same weekdays (Theil-Sen), which a single spike does not affect.
CREATE OR REPLACE VIEW {db}.cost_trend AS
WITH
    toDate({now}) - 28 AS first_day,
    daily AS
    (
        SELECT feature, sumForEach(arrayMap(n -> if(n = dateDiff('day', first_day, day), paid, 0.), range(28))) AS cost
        FROM
        (
            SELECT feature, toDate(bucket) AS day, toFloat64(sum(cost_usd)) AS paid
            FROM {db}.llm_costs
            WHERE bucket >= toDateTime(first_day, 'UTC') AND bucket < toDateTime(first_day + 28, 'UTC')
            GROUP BY feature, day
        )
        GROUP BY feature
    ),
    weekly AS
    (
        SELECT
            feature,
            cost,
            arrayMap(week -> arraySum(arraySlice(cost, 7 * week + 1, 7)), range(4)) AS weeks,
            arrayFlatten(arrayMap(i -> arrayMap(k -> (cost[i + 7 * k] - cost[i]) / k,
                arrayFilter(k -> i + 7 * k <= 28, [1, 2, 3])), range(1, 22))) AS slopes
        FROM daily
    )
SELECT
    feature,
    weeks[4]                                          AS this_week_usd,
    weeks[3]                                          AS last_week_usd,
    this_week_usd / nullIf(last_week_usd, 0) - 1      AS week_over_week,
    7 * arrayReduce('quantileExactInclusive(0.5)', slopes) AS slope_usd_per_week,
    slope_usd_per_week / nullIf(arrayAvg(weeks), 0)   AS slope_share,
    weeks[1] < weeks[2] AND weeks[2] < weeks[3] AND weeks[3] < weeks[4] AND slope_share > 0.1 AS rising,
    weeks                                             AS weeks_usd
FROM weekly
ORDER BY this_week_usd DESC
