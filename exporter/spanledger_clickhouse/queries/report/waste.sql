SELECT toUInt64(sum(retried_calls)), toUInt64(sum(extra_attempts)), toUInt64(sum(failed_calls)), toUInt64(sum(maybe_billed)),
       ifNull(sum(aborted_cost_usd), 0), ifNull(sum(truncated_cost_usd), 0)
FROM attempts_waste_between(since = {since_text}, until = {until_text})
