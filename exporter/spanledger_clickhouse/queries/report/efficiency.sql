SELECT count(), avg(c.input_tokens), avg(c.output_tokens), quantileExact(0.95)(c.input_tokens),
       countIf({fragment:calls/truncated}) / count()
FROM llm_calls AS c FINAL WHERE c.outcome != 'error' AND c.start_time >= {since} AND c.start_time < {until}
