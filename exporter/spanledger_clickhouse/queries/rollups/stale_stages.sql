SELECT name
FROM system.tables
WHERE database = {db:String} AND match(name, '_stage_[0-9a-f]{8}$') AND metadata_modification_time < now() - {age:UInt32}
