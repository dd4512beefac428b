-- Traces in which agents, tools or workflows made calls, the most expensive first.
SELECT c.trace_id AS run_id, sum(c.cost_usd) AS total_cost_usd, count() AS calls, sum(c.total_tokens) AS tokens,
       anyIf(c.attributes['gen_ai.workflow.name'], c.attributes['gen_ai.workflow.name'] != '') AS workflow,
       arraySort(groupUniqArrayIf(10)(c.attributes['gen_ai.agent.name'], c.attributes['gen_ai.agent.name'] != '')) AS agents,
       any(c.request_id) AS request_id, min(c.start_time) AS first_call
FROM llm_calls AS c FINAL
WHERE c.start_time >= {since:DateTime64(6, 'UTC')} AND c.attributes['spanledger.run.path'] != ''
GROUP BY run_id
ORDER BY total_cost_usd DESC NULLS LAST, run_id
LIMIT {top:UInt32}
