-- Rows that a process numbered and that are missing. Each process numbers its rows 0, 1, 2, ...; its end marker holds the
-- next number, and its heartbeats the next number so far. announced: the process itself reported the loss (a full spool).
-- missing_cost_usd: what the process recorded, by the prices of the moment, less its rows that are here; where a process has
-- several gaps, each has its share by rows. NULL: the process reported no total.
CREATE OR REPLACE VIEW {db}.ledger_holes AS
WITH
    reported AS
    (
        SELECT
            process_id,
            any(service)                                                AS reported_service,
            any(host)                                                   AS host,
            min(at)                                                     AS began,
            maxIf(sequence, kind IN ('end', 'heartbeat'))               AS reached,
            argMaxIf(recorded_cost_usd, (sequence, recorded_cost_usd), isNotNull(recorded_cost_usd)) AS recorded,
            maxIf(sequence, isNotNull(recorded_cost_usd))               AS recorded_up_to,
            groupArrayIf((assumeNotNull(lost_from), assumeNotNull(lost_to)), kind = 'loss' AND isNotNull(lost_from)) AS losses
        FROM {db}.ledger_events FINAL
        GROUP BY process_id
    ),
    numbered AS
    (
        SELECT
            c.process_id                                                AS process_id,
            any(c.service)                                              AS service,
            max(c.start_time)                                           AS last_call,
            groupUniqArray(assumeNotNull(c.sequence))                   AS have,
            sumIf(c.cost_usd, isNotNull(t.recorded_up_to) AND c.sequence < t.recorded_up_to) AS kept
        FROM (SELECT process_id, service, start_time, sequence, cost_usd FROM {db}.llm_calls FINAL) AS c
        LEFT JOIN reported AS t ON c.process_id = t.process_id
        WHERE c.process_id != '' AND isNotNull(c.sequence)
        GROUP BY c.process_id
    ),
    edges AS
    (
        SELECT
            if(n.process_id != '', n.process_id, t.process_id)          AS process_id,
            if(n.service != '', n.service, t.reported_service)              AS service,
            t.host                                                      AS host,
            if(n.process_id != '', n.last_call, t.began)                AS last_call,
            t.losses                                                    AS losses,
            greatest(toDecimal128(0, 12), t.recorded - ifNull(n.kept, 0)) AS missing_cost,
            ifNull(t.reached > toUInt64(arrayMax(n.have)) OR empty(n.have), 0) AS is_last, -- no row is beyond what was reported
            arraySort(arrayConcat([toInt64(-1)], arrayMap(s -> toInt64(s), n.have),
                      if(is_last, [toInt64(assumeNotNull(t.reached))], []))) AS marks,
            arrayMax(marks) + if(is_last, 0, 1) - toInt64(length(n.have)) AS missing
        FROM numbered AS n
        FULL OUTER JOIN reported AS t ON n.process_id = t.process_id
        WHERE t.process_id = '' OR t.began >= (SELECT toStartOfDay(min(start_time)) FROM {db}.llm_calls) -- else calls of it may have expired
    )
SELECT
    process_id,
    service,
    host,
    toUInt64(gap.1 + 1)                                                 AS from_sequence,
    toUInt64(gap.2 - 1)                                                 AS to_sequence,
    toUInt64(gap.2 - gap.1 - 1)                                         AS missing_rows,
    missing_cost * missing_rows / nullIf(missing, 0)                    AS missing_cost_usd,
    arrayExists(l -> l.1 <= from_sequence AND l.2 >= to_sequence, losses) AS announced,
    last_call
FROM edges
ARRAY JOIN arrayZip(arrayPopBack(marks), arrayPopFront(marks)) AS gap
WHERE gap.2 - gap.1 > 1
ORDER BY process_id, from_sequence
