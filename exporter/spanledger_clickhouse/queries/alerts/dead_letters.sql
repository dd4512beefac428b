-- Alerts that exhausted their retries, and alerts whose guard crashed after claiming them.
SELECT alert, recipient, any(budget), any(value), sum(attempts), argMaxIf(error, at, state = 'dead') AS last_error, argMax(payload, at), max(at) AS last
FROM (SELECT *, arrayJoin(if(destination = '', destinations, [destination])) AS recipient FROM budget_alerts)
GROUP BY alert, recipient
HAVING countIf(state IN ('delivered', 'dismissed')) = 0
    AND (argMax(state, at) = 'dead' OR last < now() - toIntervalSecond({seconds:UInt32}))
ORDER BY last DESC
