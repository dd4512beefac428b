-- Calls without a price, by reason and model: `spanledger prices` or a mapping can fix them. low and high are the cost of
-- their tokens with the provider's cheapest and most expensive model (`spanledger prices sync`).
CREATE OR REPLACE VIEW {db}.unpriced_calls AS
WITH rates AS
(
    SELECT
        provider,
        min(input_usd) AS input_low, max(input_usd) AS input_high, min(output_usd) AS output_low, max(output_usd) AS output_high
    FROM {db}.llm_prices FINAL
    WHERE valid_to > now() AND input_usd > 0 AND output_usd > 0
    GROUP BY provider
)
SELECT
    u.reason                                          AS reason,
    u.provider                                        AS provider,
    u.request_model                                   AS request_model,
    u.response_model                                  AS response_model,
    u.calls                                           AS calls,
    u.input_tokens_total                              AS input_tokens_total,
    u.output_tokens_total                             AS output_tokens_total,
    u.last_call                                       AS last_call,
    if(r.provider = '', NULL, u.input_tokens_total * r.input_low + u.output_tokens_total * r.output_low)   AS low_usd,
    if(r.provider = '', NULL, u.input_tokens_total * r.input_high + u.output_tokens_total * r.output_high) AS high_usd
FROM
(
    SELECT
        c.unpriced_reason                             AS reason,
        c.provider                                    AS provider,
        c.request_model                               AS request_model,
        c.response_model                              AS response_model,
        count()                                       AS calls,
        sum(c.input_tokens)                           AS input_tokens_total,
        sum(c.output_tokens)                          AS output_tokens_total,
        max(c.start_time)                             AS last_call
    FROM {db}.llm_calls AS c FINAL
    WHERE c.unpriced_reason != '' AND {window}
    GROUP BY reason, provider, request_model, response_model
) AS u
LEFT JOIN rates AS r ON r.provider = u.provider
ORDER BY calls DESC
