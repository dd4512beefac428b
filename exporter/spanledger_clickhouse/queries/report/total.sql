SELECT
    sumIf(cost_usd, bucket >= {since} AND bucket < {until}), toUInt64(sumIf(calls, bucket >= {since} AND bucket < {until})), sumIf(unattributed_cost_usd, bucket >= {since} AND bucket < {until}),
    toUInt64(sumIf(unattributed_calls, bucket >= {since} AND bucket < {until})), toUInt64(sumIf(unpriced_calls, bucket >= {since} AND bucket < {until})),
    sumIf(cost_usd, bucket < {before_until})
FROM llm_costs WHERE bucket >= {before} AND bucket < {until}
