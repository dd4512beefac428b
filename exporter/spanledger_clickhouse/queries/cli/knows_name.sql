SELECT count() FROM (SELECT 1 FROM llm_calls AS c WHERE c.start_time > now() - INTERVAL 90 DAY AND c.{column} = {name:String} LIMIT 1)
