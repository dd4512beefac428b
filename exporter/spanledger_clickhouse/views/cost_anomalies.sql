-- Hours of the last 14 days that cost more than they should, by two methods.
-- same_hour_mad (the default): against the same hour of the days before, median and 1.4826 x MAD, more than 4 of them;
-- the deviation is taken for at least a tenth of the median and a twentieth of the mean hour, so that quiet nights do
-- not ring; three days are needed. source_z: against all hours with calls, mean and standard deviation, more than 3;
-- 24 hours are needed. A slow drift escapes both: see cost_trend.
CREATE OR REPLACE VIEW {db}.cost_anomalies AS
WITH
    toStartOfHour(toDateTime({now}, 'UTC')) AS this_hour,
    paid AS
    (
        SELECT bucket AS hour, toFloat64(sum(cost_usd)) AS cost
        FROM {db}.llm_costs
        WHERE bucket > this_hour - INTERVAL 14 DAY AND bucket <= this_hour
        GROUP BY hour
    ),
    filled AS
    (
        SELECT first + toIntervalHour(number) AS hour, ifNull(p.cost, 0) AS cost
        FROM
        (
            SELECT min(hour) AS first, arrayJoin(range(toUInt32(dateDiff('hour', min(hour), this_hour)) + 1)) AS number
            FROM paid HAVING count() > 0
        ) AS h
        LEFT JOIN paid AS p ON p.hour = h.first + toIntervalHour(h.number)
    ),
    by_clock AS
    (
        SELECT toHour(hour) AS clock, groupArray((hour, cost)) AS points FROM filled GROUP BY clock
    ),
    robust AS
    (
        SELECT
            point.1                                                      AS hour,
            point.2                                                      AS cost,
            arrayMap(p -> p.2, arrayFilter(p -> p.1 < point.1, points))  AS before,
            arrayReduce('quantileExactInclusive(0.5)', before)           AS normal,
            arrayReduce('quantileExactInclusive(0.5)', arrayMap(v -> abs(v - normal), before)) AS mad,
            greatest(1.4826 * mad, 0.1 * normal, 0.05 * (SELECT avg(cost) FROM filled)) AS spread,
            (point.2 - normal) / nullIf(spread, 0)                       AS score
        FROM by_clock ARRAY JOIN points AS point
        WHERE length(before) >= 3
    ),
    found AS
    (
        SELECT 'same_hour_mad' AS method, hour, cost, score, normal FROM robust WHERE score > 4
        UNION ALL
        SELECT
            'source_z'                                                   AS method,
            hour,
            cost,
            (cost - (SELECT avg(cost) FROM paid)) / nullIf((SELECT stddevSamp(cost) FROM paid), 0) AS score,
            (SELECT avg(cost) FROM paid)                                 AS normal
        FROM paid
        WHERE score > 3 AND (SELECT count() FROM paid) >= 24
    ),
    who AS
    (
        SELECT
            hour,
            arraySlice(arrayReverseSort(x -> x.2, groupArrayIf((name, cost), kind = 'user')), 1, 3)    AS top_users,
            arraySlice(arrayReverseSort(x -> x.2, groupArrayIf((name, cost), kind = 'feature')), 1, 3) AS top_features
        FROM
        (
            SELECT toStartOfHour(c.start_time) AS hour, part.1 AS kind, part.2 AS name, sum(c.cost_usd) AS cost
            FROM {db}.llm_calls AS c FINAL
            ARRAY JOIN [('user', ifNull(c.user_id, '')), ('feature', ifNull(toString(c.feature), ''))] AS part
            WHERE toStartOfHour(c.start_time) IN (SELECT hour FROM found)
            GROUP BY hour, kind, name
        )
        GROUP BY hour
    )
SELECT
    f.method                                          AS method,
    f.hour                                            AS hour,
    f.cost                                            AS hourly_cost_usd,
    f.score                                           AS score,
    f.normal                                          AS normal_cost_usd,
    w.top_users                                       AS top_users,
    w.top_features                                    AS top_features
FROM found AS f
LEFT JOIN who AS w ON w.hour = f.hour
ORDER BY hour DESC, method
