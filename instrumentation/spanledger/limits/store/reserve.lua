-- KEYS: a completion marker, then counters. ARGV: hold ("reservation:amount"), amount, TTL of the hold in ms, then (limit,
-- TTL in ms) of each counter. The amount is 1 or more. All or nothing. Returns the index of the exhausted counter, or -1 and the
-- spent amounts as exact texts. A reservation that arrives after its settlement (network delay) holds nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local hold, amount = ARGV[1], ARGV[2]
local spent = {-1}
if redis.call('EXISTS', KEYS[1]) == 1 then return {0} end
for i = 2, #KEYS do
  local key = KEYS[i]
  local holds = key .. ':holds'
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', holds, '-inf', now)) do
    redis.call('ZREM', holds, gone)
    local lost = string.match(gone, '[1-9]%d*$')
    if lost then redis.call('HINCRBY', key, 'held', '-' .. lost) end
  end
  local known = redis.call('HMGET', key, 'spent', 'held')
  if tonumber(known[1] or 0) + math.max(0, tonumber(known[2] or 0)) + tonumber(amount) > tonumber(ARGV[2 * i]) then return {i - 2} end
  spent[i] = known[1] or '0'
end
for i = 2, #KEYS do
  local key = KEYS[i]
  redis.call('HINCRBY', key, 'held', amount)
  redis.call('ZADD', key .. ':holds', now + tonumber(ARGV[3]), hold)
  redis.call('PEXPIRE', key .. ':holds', ARGV[1 + 2 * i])
  redis.call('PEXPIRE', key, ARGV[1 + 2 * i])
end
return spent
