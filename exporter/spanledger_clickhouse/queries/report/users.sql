SELECT user_id, total_cost_usd, calls, max_cost_usd
FROM cost_by_user_between(since = {since_text}, until = {until_text}) WHERE isNotNull(user_id) LIMIT 5
