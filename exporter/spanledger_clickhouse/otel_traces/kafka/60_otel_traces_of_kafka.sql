-- Messages as rows of otel_traces, as the Collector's own clickhouse exporter writes them.
CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.otel_traces_of_kafka{on_cluster} TO {db}.otel_traces AS
WITH
    (value -> multiIf(
        JSONHas(value, 'stringValue'), JSONExtractString(value, 'stringValue'),
        JSONHas(value, 'intValue'), trim(BOTH '"' FROM JSONExtractRaw(value, 'intValue')),
        JSONHas(value, 'boolValue'), JSONExtractRaw(value, 'boolValue'),
        JSONHas(value, 'doubleValue'), JSONExtractRaw(value, 'doubleValue'),
        JSONHas(value, 'arrayValue'), concat('[', arrayStringConcat(arrayMap(
            element -> if(JSONHas(element, 'stringValue'), JSONExtractRaw(element, 'stringValue'),
                trim(BOTH '"' FROM arrayStringConcat(arrayMap(pair -> pair.2, JSONExtractKeysAndValuesRaw(element))))),
            JSONExtractArrayRaw(value, 'arrayValue', 'values')), ','), ']'),
        JSONHas(value, 'kvlistValue'), JSONExtractRaw(value, 'kvlistValue'),
        '')) AS text_of,
    (owner -> CAST((
        arrayMap(pair -> JSONExtractString(pair, 'key'), JSONExtractArrayRaw(owner, 'attributes')),
        arrayMap(pair -> text_of(JSONExtractRaw(pair, 'value')), JSONExtractArrayRaw(owner, 'attributes'))
    ), 'Map(LowCardinality(String), String)')) AS attributes_of,
    (name -> toInt64OrZero(trim(BOTH '"' FROM JSONExtractRaw(span, name)))) AS nanoseconds
SELECT
    fromUnixTimestamp64Nano(nanoseconds('startTimeUnixNano')) AS Timestamp,
    JSONExtractString(span, 'traceId') AS TraceId,
    JSONExtractString(span, 'spanId') AS SpanId,
    JSONExtractString(span, 'parentSpanId') AS ParentSpanId,
    JSONExtractString(span, 'traceState') AS TraceState,
    JSONExtractString(span, 'name') AS SpanName,
    transform(JSONExtractInt(span, 'kind'), [1, 2, 3, 4, 5], ['Internal', 'Server', 'Client', 'Producer', 'Consumer'], 'Unspecified') AS SpanKind,
    ResourceAttributes['service.name'] AS ServiceName,
    attributes_of(JSONExtractRaw(of_resource, 'resource')) AS ResourceAttributes,
    JSONExtractString(of_scope, 'scope', 'name') AS ScopeName,
    JSONExtractString(of_scope, 'scope', 'version') AS ScopeVersion,
    attributes_of(span) AS SpanAttributes,
    toUInt64(greatest(0, nanoseconds('endTimeUnixNano') - nanoseconds('startTimeUnixNano'))) AS Duration,
    transform(JSONExtractInt(span, 'status', 'code'), [1, 2], ['Ok', 'Error'], 'Unset') AS StatusCode,
    JSONExtractString(span, 'status', 'message') AS StatusMessage
FROM
(
    SELECT of_resource, of_scope, arrayJoin(JSONExtractArrayRaw(of_scope, 'spans')) AS span
    FROM
    (
        SELECT of_resource, arrayJoin(JSONExtractArrayRaw(of_resource, 'scopeSpans')) AS of_scope
        FROM (SELECT arrayJoin(JSONExtractArrayRaw(body, 'resourceSpans')) AS of_resource FROM {db}.otel_kafka WHERE _error = '')
    )
)
