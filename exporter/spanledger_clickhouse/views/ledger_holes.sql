-- Rows that a process numbered and that are missing. Each process numbers its rows 0, 1, 2, ...; its end marker holds the
-- next number. announced: the process itself reported the loss (a full spool).
CREATE OR REPLACE VIEW {db}.ledger_holes AS
WITH
    numbered AS
    (
        SELECT
            process_id,
            any(service)                                                AS service,
            max(start_time)                                             AS last_call,
            groupUniqArray(assumeNotNull(sequence))                     AS have
        FROM {db}.llm_calls FINAL
        WHERE process_id != '' AND isNotNull(sequence)
        GROUP BY process_id
    ),
    reported AS
    (
        SELECT
            process_id,
            any(service)                                                AS reported_service,
            any(host)                                                   AS host,
            min(at)                                                     AS began,
            maxIf(sequence, kind = 'end')                               AS ended_at,
            groupArrayIf((assumeNotNull(lost_from), assumeNotNull(lost_to)), kind = 'loss' AND isNotNull(lost_from)) AS losses
        FROM {db}.ledger_events FINAL
        GROUP BY process_id
    ),
    edges AS
    (
        SELECT
            if(n.process_id != '', n.process_id, t.process_id)          AS process_id,
            if(n.service != '', n.service, t.reported_service)              AS service,
            t.host                                                      AS host,
            n.last_call                                                 AS last_call,
            t.losses                                                    AS losses,
            arraySort(arrayConcat([toInt64(-1)], arrayMap(s -> toInt64(s), n.have),
                      if(isNull(t.ended_at), [], [toInt64(assumeNotNull(t.ended_at))]))) AS marks
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
    arrayExists(l -> l.1 <= from_sequence AND l.2 >= to_sequence, losses) AS announced,
    last_call
FROM edges
ARRAY JOIN arrayZip(arrayPopBack(marks), arrayPopFront(marks)) AS gap
WHERE gap.2 - gap.1 > 1
ORDER BY process_id, from_sequence
