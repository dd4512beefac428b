SELECT dimension, key FROM limit_events WHERE kind IN ('stop', 'resume')
GROUP BY dimension, key HAVING argMax(kind, at) = 'stop' ORDER BY dimension, key
