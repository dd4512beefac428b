-- A table of the Collector's exporter whose attributes are JSON, as the views read one with maps: a path is a name, a text a value,
-- anything else its JSON.
(
    WITH
        (raw -> if(startsWith(raw, '"'), JSONExtractString(concat('[', raw, ']'), 1), raw)) AS text_of,
        ((document, path) -> text_of(arrayFold((part, key) -> JSONExtractRaw(part, key), splitByChar('.', path), document))) AS at
    SELECT
        Timestamp, TraceId, SpanId, ParentSpanId, ServiceName, ScopeName, Duration, StatusCode,
        CAST((JSONAllPaths(ResourceAttributes), arrayMap(path -> at(toJSONString(ResourceAttributes), path), JSONAllPaths(ResourceAttributes))), 'Map(String, String)') AS ResourceAttributes,
        CAST((JSONAllPaths(SpanAttributes), arrayMap(path -> at(toJSONString(SpanAttributes), path), JSONAllPaths(SpanAttributes))), 'Map(String, String)') AS SpanAttributes
    FROM {source}
)
