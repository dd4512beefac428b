SELECT feature, toUInt64(uniqExact(ifNull(request_id, trace_id)) * 30 / {days}) AS requests
FROM llm_calls FINAL WHERE start_time > now() - INTERVAL {days} DAY GROUP BY feature
