SELECT toUInt64(sum(missing_rows)), toUInt64(countIf(NOT announced)), sum(missing_cost_usd) FROM ledger_holes
WHERE last_call >= {since} AND last_call < {until}
