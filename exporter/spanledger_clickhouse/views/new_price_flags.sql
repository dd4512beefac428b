-- What has come into doubt in the last day: flags that a model's calls did not have in the 30 days before.
CREATE OR REPLACE VIEW {db}.new_price_flags AS
SELECT
    provider,
    model,
    flag,
    min(start_time)                                   AS first_call,
    count()                                           AS calls,
    sum(cost_usd)                                     AS total_cost_usd,
    anyIf(unread, unread != '')                       AS unread
FROM
(
    SELECT c.provider AS provider, c.model AS model, arrayJoin(c.price_flags) AS flag, c.start_time AS start_time, c.cost_usd AS cost_usd,
           c.attributes['spanledger.usage.unread'] AS unread
    FROM {db}.llm_calls AS c FINAL
    WHERE c.start_time > now() - INTERVAL 31 DAY
)
WHERE flag NOT IN ('exact', 'estimated', 'former', 'alias')
GROUP BY provider, model, flag
HAVING first_call > now() - INTERVAL 1 DAY
ORDER BY first_call DESC
