-- One line per call with plain column names, for people and notebooks. input_cost_usd includes the cache, as input_tokens
-- does; the cost of tools is in the total only. cache_hit: an answer from a cache, marked by the span attribute
-- spanledger.cache.hit; avoided_cost_usd is what it would have cost.
CREATE OR REPLACE VIEW {db}.llm_call_record AS
SELECT
    c.span_id                                         AS call_id,
    c.start_time                                      AS timestamp,
    c.model                                           AS model,
    c.feature                                         AS feature_name,
    c.user_id                                         AS user_id,
    coalesce(c.session_id, c.conversation_id)         AS session_id,
    c.input_tokens                                    AS input_tokens,
    c.output_tokens                                   AS output_tokens,
    c.total_tokens                                    AS total_tokens,
    c.input_cost_usd + c.cache_read_cost_usd + c.cache_write_cost_usd AS input_cost_usd,
    c.output_cost_usd                                 AS output_cost_usd,
    c.cost_usd                                        AS total_cost_usd,
    c.duration_us / 1000                              AS latency_ms,
    if(c.duration_us > ifNull(c.time_to_first_chunk_us, 0) AND c.output_tokens > 0,
       c.output_tokens * 1e6 / (c.duration_us - ifNull(c.time_to_first_chunk_us, 0)), NULL) AS tokens_per_second,
    c.temperature                                     AS temperature,
    c.max_tokens                                      AS max_tokens,
    c.prompt_hash                                     AS prompt_hash,
    multiIf(
        c.outcome = 'error', 'error',
        empty(c.finish_reasons), '',
        lower(c.finish_reasons[1]) IN ('stop', 'end_turn', 'stop_sequence', 'completed'), 'stop',
        {fragment:calls/truncated}, 'length',
        lower(c.finish_reasons[1]) IN ('content_filter', 'safety', 'refusal', 'recitation', 'blocklist', 'prohibited_content', 'spii'), 'content_filter',
        lower(c.finish_reasons[1]) IN ('tool_calls', 'tool_use', 'function_call'), 'tool_use',
        lower(c.finish_reasons[1]))                   AS finish_reason,
    c.attributes['spanledger.cache.hit'] = 'true'     AS cache_hit,
    c.avoided_cost_usd                                AS avoided_cost_usd,
    c.low_cost_usd                                    AS low_cost_usd,
    c.high_cost_usd                                   AS high_cost_usd,
    c.evidence                                        AS evidence,
    c.error_type                                      AS error,
    c.request_model                                   AS requested_model,
    c.finish_reasons                                  AS finish_reasons_raw,
    c.response_id                                     AS response_id,
    c.trace_id                                        AS trace_id
FROM {db}.llm_calls AS c FINAL
WHERE {window}
