SELECT feature, if(priced = 0, NULL, sumIf(cost_usd, bucket >= {since} AND bucket < {until})) AS cost, toUInt64(sumIf(calls, bucket >= {since} AND bucket < {until})) AS n,
       cost / nullIf(priced, 0), sumIf(cost_usd, bucket < {before_until}), n - sumIf(unpriced_calls, bucket >= {since} AND bucket < {until}) AS priced
FROM llm_costs WHERE bucket >= {before} AND bucket < {until}
GROUP BY feature HAVING n > 0 ORDER BY cost DESC NULLS LAST, n DESC
