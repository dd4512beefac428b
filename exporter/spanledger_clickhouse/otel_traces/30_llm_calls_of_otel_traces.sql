-- Spans of LLM calls as rows of llm_calls: what rows.py and foreign.py do, in SQL. A call that brings its cost keeps
-- it; another is priced through the dictionary, and is unpriced:not_in_sql where that takes more than rates a token
-- (images, tools, regions): `spanledger reprice` gives it its price. Total: no span can fail the insert.
-- It looks at one span at a time, and cannot see that a call wraps another: use one instrumentor a process.
CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.llm_calls_of_otel_traces{on_cluster} TO {db}.llm_calls AS
WITH
    (names -> nullIf(a[arrayFirst(name -> a[name] != '', names)], '')) AS maybe,
    (name -> if(match(a[name], '^[0-9]{1,10}([.]0{1,3})?$'), toUInt32(least(toUInt64OrZero(splitByChar('.', a[name])[1]), 1000000000)), toUInt32(0))) AS counted,
    (text -> arrayMap(each -> toString(each), JSONExtract(text, 'Array(String)'))) AS listed,
    (name -> toInt64OrNull(a[concat('spanledger.cost.', name, '_picousd')]) * toDecimal64('0.000000000001', 12)) AS brought,
    (name -> if(isNotNull(total), ifNull(brought(name), toDecimal64(0, 12)), NULL)) AS part
SELECT
    {dimensions},
    if(a['spanledger.record.id'] != '' AND toUInt64OrZero(a['spanledger.record.created']) > 0,
        toDateTime64(toUInt64OrZero(a['spanledger.record.created']), 6, 'UTC'), toDateTime64(Timestamp, 6, 'UTC')) AS start_time,
    if(a['spanledger.record.id'] != '', substring(digest, 1, 32), TraceId) AS trace_id,
    if(a['spanledger.record.id'] != '', substring(digest, 33, 16), SpanId) AS span_id,
    ParentSpanId AS parent_span_id,
    the_response AS response_id,
    a['spanledger.process.id'] AS process_id,
    toUInt64OrNull(a['spanledger.sequence']) AS sequence,
    ServiceName AS service,
    nullIf(if(r['deployment.environment.name'] != '', r['deployment.environment.name'], r['deployment.environment']), '') AS environment,
    mapApply((key, value) -> (substring(key, 18), value), mapFilter((key, value) -> startsWith(key, 'spanledger.label.'), a)) AS labels,
    maybe(['spanledger.unit.name']) AS unit_name,
    a['spanledger.unit.id'] AS unit_id,
    toFloat64OrNull(a['spanledger.unit.quantity']) AS unit_quantity,
    a['spanledger.unit.measure'] AS unit_measure,
    multiIf(ours, a['spanledger.attribution.reason'], isNull(feature) AND isNull(user_id), 'no_baggage', '') AS attribution_reason,
    a['spanledger.attribution.lost_at'] AS context_lost_at,
    a['code.file.path'] AS code_file,
    toUInt32OrZero(a['code.line.number']) AS code_line,
    a['code.function.name'] AS code_function,
    the_provider AS provider,
    the_operation AS operation,
    asked_model AS request_model,
    answered_model AS response_model,
    host AS server_address,
    the_service_tier AS service_tier,
    a['spanledger.inference_geo'] AS inference_geo,
    a['spanledger.speed'] AS speed,
    a['spanledger.media.size'] AS media_size,
    a['spanledger.media.quality'] AS media_quality,
    a['gen_ai.request.stream'] = 'true' AS is_streaming,
    a['spanledger.batch'] = 'true' AS is_batch,
    toFloat64OrNull(a['gen_ai.request.temperature']) AS temperature,
    toUInt32OrNull(a['gen_ai.request.max_tokens']) AS max_tokens,
    a['gen_ai.prompt.name'] AS prompt_name,
    a['spanledger.prompt.hash'] AS prompt_hash,
    plain_in - least({unknown:input}, plain_in) AS input_uncached_tokens,
    audio_in AS input_audio_tokens,
    image_in AS input_image_tokens,
    video_in AS input_video_tokens,
    least(read_audio, read_in) AS cache_read_audio_tokens,
    least(read_image, read_in - cache_read_audio_tokens) AS cache_read_image_tokens,
    least(read_video, read_in - cache_read_audio_tokens - cache_read_image_tokens) AS cache_read_video_tokens,
    read_in - cache_read_audio_tokens - cache_read_image_tokens - cache_read_video_tokens - least({unknown:cache_read}, read_in - cache_read_audio_tokens - cache_read_image_tokens - cache_read_video_tokens) AS cache_read_tokens,
    written - least({unknown:cache_write}, written) AS cache_write_tokens,
    written_1h AS cache_write_1h_tokens,
    written_12h AS cache_write_12h_tokens,
    text_out - least({unknown:output}, text_out) AS output_text_tokens,
    audio_out AS output_audio_tokens,
    image_out AS output_image_tokens,
    video_out AS output_video_tokens,
    reasoned AS reasoning_tokens,
    {meters},
    toUInt64OrNull(maybe(['spanledger.usage.reported_total_tokens', 'gen_ai.usage.total_tokens', 'llm.token_count.total'])) AS reported_total_tokens,
    multiIf(ours, a['spanledger.usage.source'], used, 'exact', 'missing') AS usage_source,
    total AS cost_usd,
    if(counts, costs[1] + costs[2], part('input')) AS input_cost_usd,
    if(counts, costs[3], part('cache_read')) AS cache_read_cost_usd,
    if(counts, costs[4] + costs[5], part('cache_write')) AS cache_write_cost_usd,
    if(counts, costs[6] + costs[7] + costs[8], part('output')) AS output_cost_usd,
    part('tools') AS tools_cost_usd,
    part('other') AS other_cost_usd,
    brought('computed') AS computed_cost_usd,
    brought('avoided') AS avoided_cost_usd,
    brought('low') AS low_cost_usd,
    brought('high') AS high_cost_usd,
    status AS price_status,
    if(counts, the_price_key, a['spanledger.price.key']) AS price_key,
    if(counts, 'llm_rates', a['spanledger.price.source']) AS price_source,
    if(counts, the_price_version, a['spanledger.price.version']) AS price_version,
    listed(a['spanledger.price.flags']) AS price_flags,
    intDiv(Lasted, 1000) AS duration_us,
    accurateCastOrNull(trunc(toFloat64OrNull(a['gen_ai.response.time_to_first_chunk']) * 1e6), 'UInt64') AS time_to_first_chunk_us,
    multiIf(ours, a['spanledger.outcome'], StatusCode IN ('Error', 'STATUS_CODE_ERROR'), 'error', 'ok') AS outcome,
    a['error.type'] AS error_type,
    listed(a['gen_ai.response.finish_reasons']) AS finish_reasons,
    if(ours, toUInt16OrZero(a['spanledger.attempts']), 1) AS attempts,
    listed(a['spanledger.attempt.status']) AS attempt_status,
    arrayMap(each -> toUInt64OrZero(each), JSONExtract(a['spanledger.attempt.duration_us'], 'Array(String)')) AS attempt_duration_us,
    listed(a['spanledger.attempt.billed']) AS attempt_billed,
    a['spanledger.job.id'] AS job_id,
    a['spanledger.usage.raw'] AS usage_json,
    ScopeName AS scope,
    'otel_traces' AS source
FROM
(
    -- the cost: what the span brings, else the product of meters and rates
    SELECT
        *,
        arrayMap((count, rate) -> count * ifNull(rate, toDecimal64(0, 12)), meters, arrayResize(rates, 8)) AS costs,
        multiIf(brought_status != '', toInt64OrNull(a['spanledger.cost.total_picousd']) * toDecimal64('0.000000000001', 12),
            counts, costs[1] + costs[2] + costs[3] + costs[4] + costs[5] + costs[6] + costs[7] + costs[8], NULL) AS total
    FROM
    (
        SELECT
            *,
            multiIf(brought_status != '', brought_status, NOT used, 'unpriced:no_usage', the_price_key = '', 'unpriced:no_model',
                NOT by_rates OR arrayExists((count, rate) -> count > 0 AND isNull(rate), meters, arrayResize(rates, 8)), 'unpriced:not_in_sql', 'priced') AS status,
            brought_status = '' AND status = 'priced' AS counts
        FROM
        (
            SELECT
                *,
                if(long_above > 0 AND (all_in > long_above OR (all_in = long_above AND the_provider = 'x_ai')),
                    dictGetOrDefault('{db}.llm_rates_dictionary', 'long_rates', rate_key, ended, CAST([], 'Array(Nullable(Decimal(18, 12)))')),
                    dictGetOrDefault('{db}.llm_rates_dictionary', 'rates', rate_key, ended, CAST([], 'Array(Nullable(Decimal(18, 12)))'))) AS rates
            FROM
            (
                SELECT
                    *,
                    dictGetOrDefault('{db}.llm_rates_dictionary', 'price_key', rate_key, ended, '') AS the_price_key,
                    dictGetOrDefault('{db}.llm_rates_dictionary', 'price_version', rate_key, ended, '') AS the_price_version,
                    dictGetOrDefault('{db}.llm_rates_dictionary', 'long_above', rate_key, ended, toUInt32(0)) AS long_above
                FROM
                (
                    -- what remains of the totals, and under which name the dictionary has the model
                    SELECT
                        *,
                        fresh - audio_in - image_in - video_in AS plain_in,
                        all_out - audio_out - image_out - video_out AS text_out,
                        least(thought, text_out) AS reasoned,
                        [plain_in, audio_in, read_in, written, written_1h, text_out - reasoned, audio_out, reasoned] AS meters,
                        image_in + video_in + image_out + video_out + written_12h + read_audio + read_image + read_video = 0 AND NOT arrayExists(name -> toUInt64OrZero(a[name]) > 0, [{meters_not_in_sql}])
                            AND a['spanledger.inference_geo'] = '' AND a['spanledger.speed'] = ''
                            -- a host may stand for another provider, or for a region with rates of its own
                            AND (host IN ('', 'api.openai.com', 'api.anthropic.com', 'generativelanguage.googleapis.com', 'aiplatform.googleapis.com') OR endsWith(host, '.openai.azure.com')) AS by_rates,
                        multiIf(
                            dictHas('{db}.llm_rates_dictionary', (the_provider, the_model, tier), ended), (the_provider, the_model, tier),
                            dictHas('{db}.llm_rates_dictionary', (the_provider, the_model, ''), ended), (the_provider, the_model, ''),
                            dictHas('{db}.llm_rates_dictionary', (the_provider, asked_model, tier), ended), (the_provider, asked_model, tier),
                            (the_provider, asked_model, '')) AS rate_key
                    FROM
                    (
                        -- disjoint meters: what is in a total is taken out of it, the cache first
                        SELECT
                            *,
                            all_in - read_in - written_12h - written_1h - written AS fresh,
                            least(toUInt32(greatest(0, toInt64(n_audio_in) - read_audio)), fresh) AS audio_in,
                            least(toUInt32(greatest(0, toInt64(n_image_in) - read_image)), fresh - audio_in) AS image_in,
                            least(toUInt32(greatest(0, toInt64(n_video_in) - read_video)), fresh - audio_in - image_in) AS video_in,
                            least(n_audio_out, all_out) AS audio_out,
                            least(n_image_out, all_out - audio_out) AS image_out,
                            least(n_video_out, all_out - audio_out - image_out) AS video_out
                        FROM
                        (
                            SELECT
                                *,
                                n_out + if(bare_output, thought, 0) AS all_out,
                                least(n_read, all_in) AS read_in,
                                least(n_12h, all_in - read_in) AS written_12h,
                                least(n_1h, all_in - read_in - written_12h) AS written_1h,
                                least(toUInt32(greatest(0, toInt64(n_write) - written_12h - written_1h)), all_in - read_in - written_12h - written_1h) AS written
                            FROM
                            (
                                SELECT
                                    *,
                                    n_in + if((openlit AND the_provider IN ('anthropic', 'aws.bedrock')) OR ScopeName = 'opentelemetry.instrumentation.bedrock', n_read + n_write, 0) AS all_in, -- its input leaves the cache out
                                    the_provider IN ('gcp.gemini', 'gcp.vertex_ai')
                                        AND (openlit OR ScopeName = 'opentelemetry.instrumentation.google_generativeai' OR the_operation = 'interactions.create') AS bare_output, -- their output, reasoning
                                    if(bare_output AND n_reasoning = 0 AND n_total > all_in + n_out, toUInt32(n_total - all_in - n_out), n_reasoning) AS thought
                                FROM
                                (
                                    SELECT
                                        *,
                                        multiIf(ours, a['gen_ai.provider.name'], said_provider = 'openai' AND endsWith(host, '.openai.azure.com'), 'azure.ai.openai', transform(said_provider,
                                            ['azure', 'azure_openai', 'az.ai.openai', 'az.ai.inference', 'google', 'gemini', 'google_generativeai', 'gcp.gen_ai', 'google-gla', 'vertex_ai', 'vertexai', 'google-vertex', 'google-cloud', 'aws', 'bedrock', 'aws_bedrock', 'xai', 'mistralai'],
                                            ['azure.ai.openai', 'azure.ai.openai', 'azure.ai.openai', 'azure.ai.inference', 'gcp.gemini', 'gcp.gemini', 'gcp.gemini', 'gcp.gemini', 'gcp.gemini', 'gcp.vertex_ai', 'gcp.vertex_ai', 'gcp.vertex_ai', 'gcp.vertex_ai', 'aws.bedrock', 'aws.bedrock', 'aws.bedrock', 'x_ai', 'mistral_ai'],
                                            said_provider)) AS the_provider,
                                        transform(lower(the_service_tier), ['batch', 'batches', 'flex', 'on_demand_flex', 'priority', 'fast', 'on_demand_priority', 'balanced', 'ultrafast', 'decisions'],
                                            ['batches', 'batches', 'flex', 'flex', 'priority', 'priority', 'priority', 'balanced', 'ultrafast', 'decisions'], '') AS tier,
                                        if(answered_model != '', answered_model, asked_model) AS the_model,
                                        lower(hex(SHA256(concat(said_provider, ':', a['spanledger.record.id'])))) AS digest
                                    FROM
                                    (
                                        -- the readings, by the names that the conventions have for them
                                        WITH
                                            SpanAttributes AS a,
                                            (names -> a[arrayFirst(name -> a[name] != '', names)]) AS first,
                                            (text -> match(text, '^[0-9]{1,10}([.]0{1,3})?$') AND toUInt64OrZero(splitByChar('.', text)[1]) <= 4294967295) AS is_count, -- 12 or 12.0
                                            (names -> if(is_count(first(names)), toUInt32(least(toUInt64OrZero(splitByChar('.', first(names))[1]), 1000000000)), toUInt32(0))) AS tokens
                                        SELECT
                                            a, ResourceAttributes AS r, Timestamp, if(Duration > 31622400000000000, 0, Duration) AS Lasted, TraceId, SpanId, ParentSpanId, ServiceName, ScopeName, StatusCode,
                                            startsWith(ScopeName, 'spanledger.') AS ours,
                                            startsWith(ScopeName, 'openlit') AS openlit,
                                            lower(first(['gen_ai.provider.name', 'gen_ai.system', 'llm.provider', 'llm.system'])) AS said_provider,
                                            first(['gen_ai.request.model', 'llm.request.model', 'llm.model_name', 'embedding.model_name']) AS asked_model,
                                            first(['gen_ai.response.model', 'llm.response.model']) AS answered_model,
                                            first(['gen_ai.response.id', 'llm.response.id']) AS the_response,
                                            first(['spanledger.service_tier', 'openai.response.service_tier', 'anthropic.response.service_tier', 'gen_ai.openai.response.service_tier']) AS the_service_tier,
                                            multiIf(a['gen_ai.operation.name'] != '', a['gen_ai.operation.name'],
                                                a['openinference.span.kind'] != '', transform(upper(a['openinference.span.kind']), ['LLM', 'EMBEDDING'], ['chat', 'embeddings'], ''),
                                                transform(a['llm.request.type'], ['chat', 'completion', 'embedding'], ['chat', 'text_completion', 'embeddings'], '')) AS the_operation,
                                            a['spanledger.price.status'] AS brought_status,
                                            first(['server.address', 'net.peer.name']) AS host,
                                            toDateTime(addNanoseconds(Timestamp, Lasted), 'UTC') AS ended,
                                            ['gen_ai.usage.input_tokens', 'gen_ai.usage.prompt_tokens', 'llm.usage.prompt_tokens', 'llm.token_count.prompt'] AS names_in,
                                            ['gen_ai.usage.output_tokens', 'gen_ai.usage.completion_tokens', 'llm.usage.completion_tokens', 'llm.token_count.completion'] AS names_out,
                                            (first(names_in) != '' OR first(names_out) != '')
                                                AND NOT arrayExists(name -> a[name] != '' AND NOT is_count(a[name]), [{names_of_counts}]) AS used, -- the others alone would be a wrong price
                                            tokens(names_in) + tokens(['anthropic.usage.compaction.input_tokens']) AS n_in, -- billed beside the totals
                                            tokens(names_out) + tokens(['anthropic.usage.compaction.output_tokens']) AS n_out,
                                            tokens(['gen_ai.usage.cache_read.input_tokens', 'gen_ai.usage.cache_read_input_tokens', 'gen_ai.usage.prompt_tokens_details.cached_tokens',
                                                'llm.token_count.prompt_details.cache_read', 'gen_ai.usage.details.cache_read_tokens', 'gen_ai.usage.details.cached_tokens']) AS n_read,
                                            tokens(['gen_ai.usage.cache_write.input_tokens', 'gen_ai.usage.cache_creation.input_tokens', 'gen_ai.usage.cache_creation_input_tokens',
                                                'llm.token_count.prompt_details.cache_write', 'gen_ai.usage.prompt_tokens_details.cache_creation_tokens', 'gen_ai.usage.details.cache_write_tokens']) AS n_write,
                                            tokens(['spanledger.usage.cache_write_1h.input_tokens', 'anthropic.usage.cache_creation.ephemeral_1h_input_tokens', 'gen_ai.usage.details.cache_write_1h_tokens']) AS n_1h,
                                            tokens(['spanledger.usage.cache_write_12h.input_tokens']) AS n_12h,
                                            tokens(['gen_ai.usage.reasoning.output_tokens', 'gen_ai.usage.reasoning_tokens', 'llm.token_count.completion_details.reasoning',
                                                'gen_ai.usage.details.reasoning_tokens', 'gen_ai.usage.completion_tokens_details.reasoning_tokens']) AS n_reasoning,
                                            tokens(['gen_ai.usage.audio.input_tokens', 'llm.token_count.prompt_details.audio', 'gen_ai.usage.details.input_audio_tokens']) AS n_audio_in,
                                            tokens(['gen_ai.usage.audio.output_tokens', 'llm.token_count.completion_details.audio', 'gen_ai.usage.details.output_audio_tokens',
                                                'gen_ai.usage.completion_tokens_details.audio_tokens']) AS n_audio_out,
                                            tokens(['gen_ai.usage.image.input_tokens']) AS n_image_in,
                                            tokens(['gen_ai.usage.video.input_tokens']) AS n_video_in,
                                            tokens(['gen_ai.usage.image.output_tokens']) AS n_image_out,
                                            tokens(['gen_ai.usage.video.output_tokens']) AS n_video_out,
                                            tokens(['gen_ai.usage.audio.cache_read.input_tokens']) AS read_audio,
                                            tokens(['gen_ai.usage.image.cache_read.input_tokens']) AS read_image,
                                            tokens(['gen_ai.usage.video.cache_read.input_tokens']) AS read_video,
                                            toUInt64OrZero(first(['gen_ai.usage.total_tokens', 'llm.usage.total_tokens', 'llm.token_count.total'])) AS n_total
                                        FROM {db}.otel_traces
                                        WHERE (ours AND ScopeName != 'spanledger.ledger' AND a['spanledger.marker'] = '')
                                            OR the_operation IN ('chat', 'generate_content', 'text_completion', 'embeddings', 'image', 'image_generation', 'audio', 'speech_to_text',
                                                'text_to_speech', 'model_request', 'completion', 'fill_in_middle', 'generate', 'realtime', 'interactions.create') AND NOT mapContains(a, 'traceloop.span.kind')
                                    )
                                )
                            )
                        )
                    )
                )
            )
        )
    )
)
