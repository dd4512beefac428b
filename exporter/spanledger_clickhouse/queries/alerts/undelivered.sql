-- Alerts claimed for a destination, not delivered, and without an active claim: after a failure or a crash.
SELECT
    alert, argMax(payload, at),
    countIf(state = 'dead' AND destination = {destination:String}) AS failures,
    maxIf(at, state = 'dead' AND destination = {destination:String}) AS failed,
    maxIf(at, state = 'claimed' AND (destination = {destination:String} OR has(destinations, {destination:String}))) AS claimed
FROM budget_alerts
WHERE at > now() - INTERVAL 2 DAY
GROUP BY alert
HAVING claimed > 0 AND min(at) > now() - INTERVAL 1 DAY
    AND countIf(destination = {destination:String} AND state IN ('delivered', 'dismissed')) = 0
    AND (claimed <= failed OR claimed < now() - toIntervalSecond({seconds:UInt32}))
    AND (failures = 0 OR failed < now() - toIntervalSecond(60 * least(720, exp2(failures))))
LIMIT 100
