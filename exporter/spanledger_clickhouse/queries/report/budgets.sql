SELECT name, scope, key, period, amount_usd, spent_usd, utilisation, exhausted_at
FROM budget_status_at(as_of = {moment_text}) ORDER BY utilisation DESC
