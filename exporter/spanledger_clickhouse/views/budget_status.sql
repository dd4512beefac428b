-- Each budget in its current period: spent, projected, and when it is exhausted at its burn rate. Whole days are counted,
-- the current day so far. Hourly budgets, budgets in other time zones, of several dimensions or per user or tenant are
-- left out: `spanledger budget list` has them all.
CREATE OR REPLACE VIEW {db}.budget_status AS
WITH
    toDateTime({now}, 'UTC') AS as_of,
    toDate(as_of) - 32 AS first_day,
    (SELECT max(closed_until) FROM {db}.llm_costs_1h WHERE bucket = (SELECT max(bucket) FROM {db}.llm_costs_1h)) AS closed_hours,
    (SELECT max(closed_until) FROM {db}.llm_costs_1d WHERE bucket = (SELECT max(bucket) FROM {db}.llm_costs_1d)) AS closed_days,
    (SELECT max(closed_until) FROM {db}.llm_costs_1d_user WHERE bucket = (SELECT max(bucket) FROM {db}.llm_costs_1d_user)) AS closed_users,
    (SELECT groupArray((toString(scope), key)) FROM {db}.budgets FINAL WHERE period IN ('day', 'month') AND per = '' AND zone = 'UTC' AND scope != 'several') AS wanted,
    spent AS
    (
        -- a day may be in a rollup until noon and in the calls from there: one sum a day
        SELECT scope, key, day, sum(cost) AS cost FROM (
        SELECT part.1 AS scope, part.2 AS key, day, sum(paid) AS cost
        FROM
        (
            SELECT toString(feature) AS name, toDate(bucket) AS day, toFloat64(sum(cost_usd)) AS paid
            FROM {db}.llm_costs_1h
            WHERE bucket >= toDateTime(first_day, 'UTC') AND bucket < least(closed_hours, toDateTime(toDate(as_of) + 1, 'UTC'))
            GROUP BY name, day
        )
        ARRAY JOIN [('global', ''), ('feature', name)] AS part
        GROUP BY scope, key, day
        UNION ALL
        SELECT part.1 AS scope, part.2 AS key, bucket AS day, toFloat64(sum(cost_usd)) AS cost
        FROM {db}.llm_costs_1d
        ARRAY JOIN [('tenant', toString(tenant_id)), ('tier', toString(customer_tier))] AS part
        WHERE bucket >= first_day AND bucket <= toDate(as_of) AND arrayExists(w -> w.1 IN ('tenant', 'tier'), wanted)
        GROUP BY scope, key, day
        UNION ALL
        SELECT 'user' AS scope, user_id AS key, bucket AS day, toFloat64(sum(cost_usd)) AS cost
        FROM {db}.llm_costs_1d_user
        WHERE bucket >= first_day AND bucket <= toDate(as_of) AND user_id IN (SELECT key FROM {db}.budgets FINAL WHERE scope = 'user' AND period IN ('day', 'month') AND per = '' AND zone = 'UTC' AND scope != 'several')
        GROUP BY key, day
        UNION ALL
        -- what is in no rollup yet, for all of them at once; a dimension without a rollup is in none at all
        SELECT part.1 AS scope, part.2 AS key, toDate(c.start_time) AS day, toFloat64(ifNull(sum(c.cost_usd), 0)) AS cost
        FROM {db}.llm_calls AS c FINAL
        ARRAY JOIN [('global', ''), {budget_scopes}] AS part
        WHERE c.start_time >= if(arrayExists(w -> w.1 NOT IN ('global', 'feature', 'tenant', 'tier', 'user'), wanted), toDateTime(0, 'UTC'), least(closed_hours, closed_days, closed_users))
            AND c.start_time >= toDateTime(first_day, 'UTC')
            AND c.start_time < toDateTime(toDate(as_of) + 1, 'UTC') AND has(wanted, part)
            AND c.start_time >= multiIf(part.1 IN ('global', 'feature'), closed_hours, part.1 = 'user', closed_users, part.1 IN ('tenant', 'tier'), closed_days, toDateTime(0, 'UTC'))
        GROUP BY scope, key, day
        ) GROUP BY scope, key, day
    ),
    burning AS
    (
        SELECT
            b.name AS name, b.scope AS scope, b.key AS key, b.period AS period, b.amount_usd AS amount_usd, b.thresholds AS thresholds,
            if(b.period = 'day', toStartOfDay(as_of), toDateTime(toStartOfMonth(as_of), 'UTC')) AS period_start,
            if(b.period = 'day', toStartOfDay(as_of) + INTERVAL 1 DAY, toDateTime(toStartOfMonth(as_of) + INTERVAL 1 MONTH, 'UTC')) AS period_end,
            sumIf(s.cost, s.day >= toDate(period_start))                                  AS spent,
            {fragment:budgets/burn_rate}
        FROM {db}.budgets AS b FINAL
        LEFT JOIN spent AS s ON s.scope = toString(b.scope) AND s.key = b.key
        WHERE b.period IN ('day', 'month') AND b.per = '' AND b.zone = 'UTC' AND b.scope != 'several'
        GROUP BY name, scope, key, period, amount_usd, thresholds
    ),
    projected AS (SELECT *, toFloat64(amount_usd) AS amount, {fragment:budgets/forecast} FROM burning)
SELECT
    name, scope, key, period, period_start, period_end,
    amount_usd,
    spent                                             AS spent_usd,
    spent / nullIf(amount, 0)                         AS utilisation,
    arrayFilter(t -> utilisation >= t, thresholds)    AS thresholds_crossed,
    projected_usd,
    projected_usd / nullIf(amount, 0)                 AS projected_utilisation,
    daily_burn_rate                                   AS daily_burn_rate_usd,
    exhausted_at, exhausted_earliest, exhausted_latest,
    ifNull(exhausted_at < period_end, 0)              AS over_before_end
FROM projected
ORDER BY utilisation DESC
