-- KEYS: a counter. ARGV: the spent amount in the ledger, TTL in ms.
local known = redis.call('HGET', KEYS[1], 'spent')
if tonumber(known or 0) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'spent', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'levelled', string.format('%.0f', tonumber(ARGV[1]) - tonumber(known or 0)))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
