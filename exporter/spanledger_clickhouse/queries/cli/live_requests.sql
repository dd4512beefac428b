SELECT feature, toUInt64(uniqExact(ifNull(request_id, trace_id)) * 30 / {days:UInt32}) AS requests
FROM llm_calls FINAL WHERE start_time > now() - toIntervalDay({days:UInt32}) GROUP BY feature
