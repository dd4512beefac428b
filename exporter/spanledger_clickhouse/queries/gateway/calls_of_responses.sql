SELECT tenant_id, provider, response_id, trace_id, span_id
FROM {db}.llm_calls
WHERE response_id IN {ids:Array(String)} AND start_time > now() - toIntervalDay({days:UInt32})
