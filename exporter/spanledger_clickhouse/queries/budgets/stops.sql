SELECT concat(dimension, '=', key) AS name, argMax(at, at), argMax(who, at), argMax(reason, at)
FROM limit_events WHERE kind = 'stop' GROUP BY name
