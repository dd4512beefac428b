-- Cost of a run (a trace) by its steps: workflow > agent > tool > call. A call is a leaf, so each dollar stands once in own_cost_usd;
-- total_cost_usd of a step is that of all calls below it.
CREATE OR REPLACE VIEW {db}.run_tree AS
SELECT
    run_id,
    node.2                                            AS node_id,
    any(node.3)                                       AS parent_id,
    any(node.1)                                       AS depth,
    any(node.4)                                       AS kind,
    any(node.5)                                       AS name,
    sum(cost_usd)                                     AS total_cost_usd,
    if(kind = 'call', total_cost_usd, NULL)           AS own_cost_usd,
    count()                                           AS calls,
    sum(total_tokens)                                 AS tokens,
    min(start_time)                                   AS first_call,
    countIf(unpriced_reason != '')                    AS unpriced_calls
FROM
(
    SELECT
        c.trace_id AS run_id, c.cost_usd AS cost_usd, c.total_tokens AS total_tokens, c.start_time AS start_time, c.unpriced_reason AS unpriced_reason,
        {fragment:calls/run_steps} AS steps,
        {fragment:calls/run_nodes} AS nodes
    FROM {db}.llm_calls AS c FINAL
    WHERE {window}
)
ARRAY JOIN nodes AS node
GROUP BY run_id, node_id
