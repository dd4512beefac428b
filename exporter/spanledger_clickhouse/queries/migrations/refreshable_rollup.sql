CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.{rollup}_refresh{on_cluster}
REFRESH EVERY 5 MINUTE TO {db}.{rollup}
AS SELECT *, toStartOfHour(now('UTC')) AS closed_until FROM ({query})
