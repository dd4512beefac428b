SELECT sum(c.cost_usd), count(), sum(c.attempts) FROM llm_calls AS c FINAL WHERE c.request_id = {request:String}
