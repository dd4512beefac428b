SELECT name FROM system.dictionaries WHERE database = {db:String} AND name = 'llm_rates_dictionary'
