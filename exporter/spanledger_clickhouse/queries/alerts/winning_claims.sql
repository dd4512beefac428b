-- The winning claim per alert: the first since it last failed, or was resolved, that has not expired.
SELECT alert, argMinIf(claim, (at, claim), state = 'claimed' AND at > failed) FROM
(
    SELECT alert, state, claim, at, maxIf(at, state IN ('dead', 'resolved')) OVER (PARTITION BY alert) AS failed FROM budget_alerts
    WHERE alert IN {ids:Array(String)} AND (destination = {destination:String} OR state = 'resolved')
)
WHERE at > now() - toIntervalSecond({seconds:UInt32})
GROUP BY alert
