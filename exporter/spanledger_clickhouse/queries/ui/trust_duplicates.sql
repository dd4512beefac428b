SELECT provider, response_id, total_rows, total_cost_usd, counted_twice_usd, scopes, first_call
FROM duplicate_calls_between(since = {since:DateTime('UTC')}, until = {until:DateTime('UTC')})
LIMIT 50
