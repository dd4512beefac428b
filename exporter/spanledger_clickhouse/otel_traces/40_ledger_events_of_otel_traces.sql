-- Markers that processes report about themselves, as rows of ledger_events.
CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.ledger_events_of_otel_traces{on_cluster} TO {db}.ledger_events AS
SELECT
    SpanAttributes['spanledger.process.id'] AS process_id,
    SpanAttributes['spanledger.marker'] AS kind,
    toDateTime64(Timestamp, 6, 'UTC') AS at,
    ServiceName AS service,
    ResourceAttributes['host.name'] AS host,
    toUInt64OrNull(SpanAttributes['spanledger.sequence']) AS sequence,
    toUInt64OrZero(SpanAttributes['spanledger.lost.rows']) AS lost_rows,
    toUInt64OrNull(SpanAttributes['spanledger.lost.from_sequence']) AS lost_from,
    toUInt64OrNull(SpanAttributes['spanledger.lost.to_sequence']) AS lost_to,
    toInt64OrZero(SpanAttributes['spanledger.cost.total_picousd']) * toDecimal64('0.000000000001', 12) AS lost_cost_usd,
    toInt64OrNull(SpanAttributes['spanledger.recorded.cost_picousd']) * toDecimal128('0.000000000001', 12) AS recorded_cost_usd
FROM {db}.otel_traces
WHERE ScopeName = 'spanledger.ledger'
