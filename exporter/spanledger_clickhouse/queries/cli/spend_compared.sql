sumIf(c.cost_usd, c.start_time < {since:DateTime64(6, 'UTC')}) AS previous_cost_usd,
toFloat64(total_cost_usd) / nullIf(toFloat64(previous_cost_usd), 0) - 1 AS change_share,
