-- Cost, revenue and margin of each tenant by month. Revenue comes from the table `revenue`; NULL where it has none.
CREATE OR REPLACE VIEW {db}.cost_by_tenant_tier AS
WITH
    spent AS
    (
        SELECT
            toStartOfMonth(c.bucket)                  AS month,
            c.tenant_id                               AS tenant_id,
            ifNull(c.customer_tier, '')               AS customer_tier,
            sum(c.cost_usd)                           AS cost,
            sum(c.calls)                              AS calls
        FROM (SELECT *, toDateTime(bucket, 'UTC') AS start_time FROM {db}.llm_costs_daily) AS c
        WHERE {window}
        GROUP BY month, tenant_id, customer_tier
    ),
    earned AS
    (
        SELECT month, tenant_id, customer_tier, sum(amount_usd) AS amount FROM {db}.revenue FINAL
        GROUP BY month, tenant_id, customer_tier
    )
SELECT
    s.month                                           AS month,
    s.tenant_id                                       AS tenant_id,
    s.customer_tier                                   AS customer_tier,
    s.cost                                            AS total_cost_usd,
    s.calls                                           AS total_calls,
    if(e.tenant_id = '' AND e.amount = 0, NULL, e.amount) AS revenue_usd,
    revenue_usd - s.cost                              AS margin_usd,
    toFloat64(margin_usd) / nullIf(toFloat64(revenue_usd), 0) AS margin_share
FROM spent AS s
LEFT JOIN earned AS e ON e.month = s.month AND e.tenant_id = s.tenant_id AND e.customer_tier = s.customer_tier
ORDER BY month DESC, total_cost_usd DESC
