-- Calls that were refused in a window, by what refused them, with those who were refused most. Reasons that differ only in their numbers
-- (tokens, seconds) are one.
SELECT pattern, any(reason) AS example, sum(n) AS refused, uniqExact(who) AS callers, groupArray(5)((who, n)) AS top
FROM
(
    SELECT replaceRegexpAll(c.attributes['spanledger.budget.refusal'], '[0-9][0-9.,]*', '0') AS pattern,
           any(c.attributes['spanledger.budget.refusal']) AS reason,
           coalesce(c.user_id, toString(c.feature), toString(c.service)) AS who, count() AS n
    FROM llm_calls AS c FINAL
    WHERE c.start_time >= {since:DateTime64(6, 'UTC')} AND c.start_time < {until:DateTime64(6, 'UTC')} AND c.error_type = 'BudgetExceeded'
    GROUP BY pattern, who
    ORDER BY n DESC
)
GROUP BY pattern
ORDER BY refused DESC
