-- Spend without a known feature, user or request, by the code that made the call.
CREATE OR REPLACE VIEW {db}.unattributed_spend AS
SELECT
    c.code_file                                       AS code_file,
    c.code_line                                       AS code_line,
    c.code_function                                   AS code_function,
    c.attribution_reason                              AS reason,
    c.context_lost_at                                 AS lost_at, -- ingress: the trace came from elsewhere, its baggage did not
    sum(c.cost_usd)                                   AS total_cost_usd,
    count()                                           AS calls,
    countIf(isNull(c.feature))                        AS calls_without_feature,
    countIf(isNull(c.user_id))                        AS calls_without_user,
    countIf(isNull(c.request_id))                     AS calls_without_request,
    max(c.start_time)                                 AS last_call
FROM {db}.llm_calls AS c FINAL
WHERE c.attribution_reason != '' AND {window}
GROUP BY code_file, code_line, code_function, reason, lost_at
ORDER BY total_cost_usd DESC NULLS LAST
