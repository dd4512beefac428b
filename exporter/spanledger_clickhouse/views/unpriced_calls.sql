-- Calls without a price, by the reason and the model: what `spanledger prices` or a mapping would heal.
CREATE OR REPLACE VIEW {db}.unpriced_calls AS
SELECT
    c.unpriced_reason                                 AS reason,
    c.provider                                        AS provider,
    c.request_model                                   AS request_model,
    c.response_model                                  AS response_model,
    count()                                           AS calls,
    sum(c.input_tokens)                               AS input_tokens_total,
    sum(c.output_tokens)                              AS output_tokens_total,
    max(c.start_time)                                 AS last_call
FROM {db}.llm_calls AS c FINAL
WHERE c.unpriced_reason != ''
GROUP BY reason, provider, request_model, response_model
ORDER BY calls DESC
