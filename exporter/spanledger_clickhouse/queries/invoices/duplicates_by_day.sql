-- Of responses that have more than one row: what the rows cost beyond one each.
SELECT day, provider, project, model, sum(twice)
FROM
(
    SELECT toDate(min(c.start_time)) AS day, toString(c.provider) AS provider, any(ifNull(toString({project}), '')) AS project,
           any(c.model) AS model, ifNull(sum(c.cost_usd) - max(c.cost_usd), 0) AS twice
    FROM llm_calls AS c FINAL
    WHERE c.start_time >= {first:Date} AND c.start_time < {last:Date} + 1 AND c.response_id != '' AND c.outcome = 'ok'
    GROUP BY provider, c.tenant_id, c.response_id
    HAVING count() > 1
)
GROUP BY day, provider, project, model
