-- For how many days calls are kept.
SELECT toUInt32OrZero(extract(create_table_query, 'TTL toDateTime\\(start_time\\) \\+ toIntervalDay\\((\\d+)\\)'))
FROM system.tables
WHERE database = {db:String} AND name LIKE 'llm_calls%' AND create_table_query LIKE '%TTL toDateTime(start_time)%'
LIMIT 1
