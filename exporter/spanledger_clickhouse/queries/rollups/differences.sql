-- Days on which a rollup differs from the calls, up to the hour that it has closed.
WITH
    kept AS (
        SELECT toDate(r.bucket) AS day, sum(r.calls) AS calls, {priced} AS cost, max(r.closed_until) AS until
        FROM {db}.{rollup} AS r GROUP BY day
    ),
    facts AS (
        SELECT toDate(c.start_time) AS day, count() AS calls, {facts} AS cost
        FROM {db}.llm_calls AS c FINAL LEFT JOIN kept AS k ON k.day = toDate(c.start_time)
        WHERE k.until = toDateTime(0, 'UTC') OR c.start_time < k.until
        GROUP BY day
    )
SELECT f.day, k.calls, f.calls, k.cost, f.cost
FROM facts AS f LEFT JOIN kept AS k ON k.day = f.day
WHERE (k.calls != f.calls OR k.cost != f.cost) AND (k.calls > 0 OR f.day < (SELECT max(day) FROM kept))
ORDER BY f.day
