-- The steps of runs, of the calls that a trace, a request, a session or a conversation has: as the view run_tree, which has whole traces.
WITH {steps} AS steps
SELECT node.2 AS node_id, any(node.3) AS parent_id, any(node.1) AS depth, any(node.4) AS kind, any(node.5) AS name, sum(c.cost_usd) AS total_cost_usd,
       count() AS calls, sum(c.total_tokens) AS tokens, countIf(c.unpriced_reason != '') AS unpriced_calls, any(c.trace_id) AS trace_id
FROM llm_calls AS c FINAL
ARRAY JOIN {nodes} AS node
WHERE c.trace_id = {run:String} OR c.request_id = {run:String} OR c.session_id = {run:String} OR c.conversation_id = {run:String}
GROUP BY c.trace_id, node_id
ORDER BY depth, total_cost_usd DESC, node_id
LIMIT {limit:UInt32}
