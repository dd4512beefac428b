CREATE TABLE IF NOT EXISTS {db}.{table}{on_cluster} AS {db}.{table}_local
ENGINE = Distributed('{cluster}', '{database}', '{table}_local', {sharding_key})
