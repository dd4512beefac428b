SELECT type FROM system.columns WHERE database = {db:String} AND table = {table:String} AND name = 'SpanAttributes'
