-- The steps of the runs (traces) in which calls of this trace, request, session or conversation were made.
SELECT node_id, parent_id, depth, kind, name, total_cost_usd, calls, tokens, unpriced_calls
FROM run_tree
WHERE run_id IN (
    SELECT DISTINCT trace_id FROM llm_calls AS c FINAL
    WHERE c.trace_id = {run:String} OR c.request_id = {run:String} OR c.session_id = {run:String} OR c.conversation_id = {run:String}
    LIMIT 100
)
ORDER BY depth, total_cost_usd DESC, node_id
LIMIT 5000
