-- Closed months: what was sealed, what the ledger has now, and the adjustment between them (late rows, prices put right).
CREATE OR REPLACE VIEW {db}.month_closing AS
SELECT
    s.month                                           AS month,
    s.provider                                        AS provider,
    s.invoiced_usd                                    AS invoiced_usd,
    s.ledger_usd                                      AS sealed_usd,
    l.cost                                            AS ledger_usd_now,
    l.cost - s.ledger_usd                             AS adjustment_usd,
    s.adjustments_usd                                 AS carried_usd,
    s.causes                                          AS causes,
    s.unexplained_usd                                 AS unexplained_usd,
    s.closed_by                                       AS closed_by,
    s.closed_at                                       AS closed_at,
    s.note                                            AS note
FROM (SELECT * FROM {db}.closed_months FINAL WHERE NOT is_open) AS s
LEFT JOIN
(
    SELECT toStartOfMonth(bucket) AS month, toString(provider) AS provider, sum(cost_usd) AS cost
    FROM {db}.llm_costs
    GROUP BY month, provider
) AS l ON l.month = s.month AND l.provider = toString(s.provider)
ORDER BY month, provider
