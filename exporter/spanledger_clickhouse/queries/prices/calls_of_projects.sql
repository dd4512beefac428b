-- Calls whose price a table decides, with their provider project and model.
SELECT {columns}, ifNull(toString({project}), '') AS project, c.model AS model
FROM llm_calls AS c FINAL
WHERE c.start_time >= {since:DateTime64(6, 'UTC')} AND c.start_time < {until:DateTime64(6, 'UTC')}
    AND c.price_status NOT IN {excluded:Array(String)}
