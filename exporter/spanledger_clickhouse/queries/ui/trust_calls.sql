SELECT code_file, code_line, code_function, reason, total_cost_usd, calls, last_call
FROM unattributed_spend_between(since = {since:DateTime('UTC')}, until = {until:DateTime('UTC')})
LIMIT 50
