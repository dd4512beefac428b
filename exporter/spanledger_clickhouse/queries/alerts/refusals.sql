-- Calls that were refused in the hour before, by what refused them, with those who were refused most.
SELECT reason, sum(n) AS refused, uniqExact(who) AS users, groupArray(5)((who, n)) AS top
FROM
(
    SELECT c.attributes['spanledger.budget.refusal'] AS reason, coalesce(c.user_id, toString(c.feature), toString(c.service)) AS who, count() AS n
    FROM llm_calls AS c FINAL
    WHERE c.start_time >= {since:DateTime64(6, 'UTC')} AND c.start_time < {until:DateTime64(6, 'UTC')} AND c.error_type = 'BudgetExceeded'
    GROUP BY reason, who
    ORDER BY n DESC
)
GROUP BY reason
ORDER BY refused DESC
LIMIT 20
