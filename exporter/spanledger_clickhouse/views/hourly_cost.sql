-- Spend by hour; an hour without calls has 0.
CREATE OR REPLACE VIEW {db}.hourly_cost AS
SELECT
    c.bucket                                          AS hour,
    sum(c.cost_usd)                                   AS total_cost_usd,
    sum(c.calls)                                      AS total_calls
FROM (SELECT *, bucket AS start_time FROM {db}.llm_costs) AS c
WHERE {window}
GROUP BY hour
ORDER BY hour WITH FILL STEP toIntervalHour(1)
