-- Calls of an hour that show a correction.
SELECT count()
FROM {db}.llm_calls FINAL
WHERE start_time >= {hour:DateTime64(6, 'UTC')} AND start_time < {hour:DateTime64(6, 'UTC')} + INTERVAL 1 HOUR
    AND row_version = {version:UInt64}
