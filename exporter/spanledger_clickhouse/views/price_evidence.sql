-- How sure costs are: exact (everything that can cost money was understood), estimated, reported (the provider's own figure) or unpriced,
-- by model and by what is in doubt. The true cost lies between low and high; NULL where that is not known of every call.
CREATE OR REPLACE VIEW {db}.price_evidence AS
SELECT
    c.evidence                                        AS evidence,
    c.provider                                        AS provider,
    c.model                                           AS model,
    arrayStringConcat(arraySort(arrayFilter(flag -> flag NOT IN ('exact', 'estimated'), c.price_flags)), ', ') AS doubts,
    count()                                           AS calls,
    sum(c.cost_usd)                                   AS total_cost_usd,
    if(evidence = 'estimated' AND countIf(isNull(c.low_cost_usd)) > 0, NULL, sum(ifNull(c.low_cost_usd, c.cost_usd)))   AS low_usd,
    if(evidence = 'estimated' AND countIf(isNull(c.high_cost_usd)) > 0, NULL, sum(ifNull(c.high_cost_usd, c.cost_usd))) AS high_usd,
    max(c.start_time)                                 AS last_call
FROM {db}.llm_calls AS c FINAL
WHERE c.evidence != '' AND {window}
GROUP BY evidence, provider, model, doubts
ORDER BY total_cost_usd DESC NULLS LAST
