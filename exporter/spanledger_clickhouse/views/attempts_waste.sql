-- Failed, retried and aborted calls by feature and model. maybe_billed: attempts without a response, which the provider
-- may have served and billed.
CREATE OR REPLACE VIEW {db}.attempts_waste AS
SELECT
    c.feature                                         AS feature,
    c.model                                           AS model,
    count()                                           AS calls,
    countIf(c.attempts > 1)                           AS retried_calls,
    sum(greatest(toUInt64(c.attempts), 1)) - count()               AS extra_attempts,
    countIf(c.outcome = 'error')                      AS failed_calls,
    countIf(c.outcome = 'aborted')                    AS aborted_calls,
    sumIf(c.cost_usd, c.outcome = 'aborted')          AS aborted_cost_usd,
    sumIf(c.cost_usd, {fragment:calls/truncated}) AS truncated_cost_usd,
    sum(arrayCount(billed -> billed = 'unknown', c.attempt_billed)) AS maybe_billed,
    sum(arraySum(arrayMap((duration, billed) -> if(billed = 'yes', 0, duration), c.attempt_duration_us, c.attempt_billed))) / 1e6 AS lost_seconds
FROM {db}.llm_calls AS c FINAL
WHERE {window}
GROUP BY feature, model
HAVING retried_calls + failed_calls + aborted_calls > 0 OR truncated_cost_usd > 0
ORDER BY failed_calls + retried_calls DESC
