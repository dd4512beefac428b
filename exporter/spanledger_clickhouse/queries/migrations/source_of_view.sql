-- From which table the view of calls is filled.
SELECT database, name
FROM system.tables
WHERE arrayExists((owner, view) -> owner = {db:String} AND view = 'llm_calls_of_otel_traces', dependencies_database, dependencies_table)
LIMIT 1
