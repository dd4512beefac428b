SELECT count(), countIf(unpriced_reason != ''), countIf(attribution_reason != '')
FROM llm_calls FINAL WHERE start_time > now() - INTERVAL 1 DAY
