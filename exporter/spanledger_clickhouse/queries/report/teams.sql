SELECT n.team, n.total_cost_usd, n.calls, ifNull(b.total_cost_usd, 0)
FROM cost_by_team_between(since = {since_text}, until = {until_text}) AS n
LEFT JOIN cost_by_team_between(since = {before_text}, until = {before_until_text}) AS b ON ifNull(b.team, '') = ifNull(n.team, '')
ORDER BY n.total_cost_usd DESC NULLS LAST, n.team
