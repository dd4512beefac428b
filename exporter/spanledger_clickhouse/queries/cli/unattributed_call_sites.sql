SELECT code_file, code_line, code_function, reason, lost_at, total_cost_usd, calls,
       calls_without_feature, calls_without_user, calls_without_request, last_call
FROM unattributed_spend_between(since = '{since}', until = '{until}')
LIMIT {top:UInt32}
