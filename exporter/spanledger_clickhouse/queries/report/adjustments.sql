SELECT ifNull(sum(adjustment_usd) - sum(carried_usd), 0) FROM month_closing WHERE month < {since}
