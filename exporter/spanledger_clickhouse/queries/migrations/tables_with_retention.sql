SELECT count()
FROM system.tables
WHERE database = {db:String} AND name LIKE 'llm_calls%' AND create_table_query LIKE '%TTL toDateTime(start_time)%'
