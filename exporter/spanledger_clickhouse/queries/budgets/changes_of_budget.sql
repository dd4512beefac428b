SELECT at, kind, who, reason FROM limit_events WHERE dimension = 'budget' AND key = {name:String} ORDER BY at
