SELECT 1 FROM (SELECT count() AS n FROM llm_calls) WHERE n > {rows:UInt64}
