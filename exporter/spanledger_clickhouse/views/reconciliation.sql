-- The ledger compared with the providers' invoices (table invoices), by day and provider. A positive residual is spend that
-- the ledger did not see or could not price: unpriced_calls is the number of calls of that day without a price.
CREATE OR REPLACE VIEW {db}.reconciliation AS
SELECT
    i.day                                             AS day,
    i.provider                                        AS provider,
    i.invoiced                                        AS invoiced_usd,
    l.cost                                            AS ledger_usd,
    i.invoiced - l.cost                               AS residual_usd,
    toFloat64(residual_usd) / nullIf(toFloat64(i.invoiced), 0) AS residual_share,
    l.unpriced                                        AS unpriced_calls
FROM (SELECT day, toString(provider) AS provider, sum(amount_usd) AS invoiced FROM {db}.invoices FINAL GROUP BY day, provider) AS i
LEFT JOIN
(
    SELECT toDate(bucket) AS day, toString(provider) AS provider, sum(cost_usd) AS cost, sum(unpriced_calls) AS unpriced
    FROM {db}.llm_costs
    GROUP BY day, provider
) AS l ON l.day = i.day AND l.provider = i.provider
ORDER BY day, provider
