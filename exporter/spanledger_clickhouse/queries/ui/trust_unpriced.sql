SELECT reason, provider, request_model, calls, input_tokens_total AS input_tokens, output_tokens_total AS output_tokens, low_usd, high_usd, last_call
FROM unpriced_calls_between(since = {since:DateTime('UTC')}, until = {until:DateTime('UTC')})
LIMIT 50
