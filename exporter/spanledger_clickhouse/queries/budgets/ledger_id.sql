SELECT toString(uuid) FROM system.tables
WHERE database = {database:String} AND name = 'budgets' AND uuid != toUUID('00000000-0000-0000-0000-000000000000')
