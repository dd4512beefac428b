-- Users who spent more than 1 % of a day's budget in the last hour: of the global monthly budget divided by the days of the
-- month, or of the daily budget.
CREATE OR REPLACE VIEW {db}.user_hour_over_daily_share AS
WITH
    toDateTime({now}, 'UTC') AS as_of,
    (
        SELECT min(if(period = 'day', toFloat64(amount_usd), toFloat64(amount_usd) / toDayOfMonth(toLastDayOfMonth(as_of))))
        FROM {db}.budgets FINAL WHERE scope = 'global' AND per = '' AND period IN ('day', 'month')
    ) AS daily_budget
SELECT
    c.user_id                                         AS user_id,
    toFloat64(sum(c.cost_usd))                        AS hour_cost_usd,
    daily_budget                                      AS daily_budget_usd,
    hour_cost_usd / daily_budget                      AS share,
    count()                                           AS calls,
    topK(1)(ifNull(toString(c.feature), ''))[1]       AS feature,
    topK(1)(c.model)[1]                               AS model
FROM {db}.llm_calls AS c FINAL
WHERE c.start_time > as_of - INTERVAL 1 HOUR AND c.start_time <= as_of AND isNotNull(c.user_id)
GROUP BY user_id
HAVING hour_cost_usd > 0.01 * daily_budget AND daily_budget > 0
ORDER BY hour_cost_usd DESC
