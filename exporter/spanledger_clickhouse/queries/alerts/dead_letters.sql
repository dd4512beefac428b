-- Alerts that exhausted their retries, and alerts whose guard crashed after claiming them.
SELECT alert, whom, any(budget), any(value), sum(attempts), argMaxIf(error, at, state = 'dead') AS said, argMax(payload, at), max(at) AS last
FROM (SELECT *, arrayJoin(if(destination = '', destinations, [destination])) AS whom FROM budget_alerts)
GROUP BY alert, whom
HAVING countIf(state IN ('delivered', 'dismissed')) = 0
    AND (argMax(state, at) = 'dead' OR last < now() - toIntervalSecond({seconds:UInt32}))
ORDER BY last DESC
