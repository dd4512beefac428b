-- Calls whose price a table decides, of one model or of all (empty).
SELECT {columns}
FROM {db}.llm_calls FINAL
WHERE start_time >= {since:DateTime64(6, 'UTC')} AND start_time < {until:DateTime64(6, 'UTC')}
    AND price_status NOT IN {excluded:Array(String)}
    AND ({model:String} = '' OR {model:String} IN (request_model, response_model))
