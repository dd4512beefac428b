-- Anomalous hours of the last 14 days, by two methods.
-- same_hour_mad (default): compared with the same hour of the days before, by median and 1.4826 x MAD; more than 4 of them
-- is an anomaly. The deviation is at least a tenth of the median and a twentieth of the mean hour, so that quiet nights do
-- not alert; three days are needed. source_z: compared with all hours with calls, by mean and standard deviation; more than
-- 3; 24 hours are needed. Neither detects a slow drift: see cost_trend.
CREATE OR REPLACE VIEW {db}.cost_anomalies AS
WITH
    toStartOfHour(toDateTime({now}, 'UTC')) AS this_hour,
    ( -- one row of arrays, looked at once
        SELECT groupArrayArray(every)
        FROM
        (
            SELECT
                arrayMap(i -> arrayMap(k -> filled[i - 24 * k], arrayFilter(k -> i > 24 * k, range(1, 15))), range(1, length(filled) + 1)) AS before,
                arrayMap(b -> arrayReduce('quantileExactInclusive(0.5)', b), before)  AS medians,
                arrayMap((b, m) -> 1.4826 * arrayReduce('quantileExactInclusive(0.5)', arrayMap(v -> abs(v - m), b)), before, medians) AS spreads,
                arrayConcat(
                    arrayFilter(h -> h.4 > 4, arrayMap(
                        (h, c, b, m, s) -> ('same_hour_mad', h, c, if(length(b) >= 3, (c - m) / nullIf(greatest(s, 0.1 * m, 0.05 * mean_hour), 0), NULL), m),
                        clock, filled, before, medians, spreads)),
                    arrayFilter(h -> h.4 > 3, arrayMap(
                        (h, c) -> ('source_z', h, c, if(length(costs) >= 24, (c - mean) / nullIf(deviation, 0), NULL), mean), hours, costs))
                ) AS every
            FROM
            (
                SELECT
                    groupArray(hour)                                             AS hours,
                    groupArray(cost)                                             AS costs,
                    arrayMap(n -> arrayMin(hours) + toIntervalHour(n), range(toUInt32(dateDiff('hour', arrayMin(hours), this_hour)) + 1)) AS clock,
                    arrayMap(h -> if(has(hours, h), costs[indexOf(hours, h)], 0.), clock) AS filled,
                    arrayAvg(costs)                                              AS mean,
                    arrayReduce('stddevSamp', costs)                             AS deviation,
                    arrayAvg(filled)                                             AS mean_hour
                FROM
                (
                    SELECT bucket AS hour, toFloat64(sum(cost_usd)) AS cost
                    FROM {db}.llm_costs
                    WHERE bucket > this_hour - INTERVAL 14 DAY AND bucket <= this_hour
                    GROUP BY hour
                )
                HAVING count() > 0
            )
        )
    ) AS hits,
    found AS (SELECT hit.1 AS method, hit.2 AS hour, hit.3 AS cost, hit.4 AS score, hit.5 AS normal FROM (SELECT arrayJoin(hits) AS hit)),
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
            WHERE toStartOfHour(c.start_time) IN (SELECT arrayJoin(hits.2))
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
