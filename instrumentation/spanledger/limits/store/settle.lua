-- KEYS: a completion marker, then counters. ARGV: hold, amount held, amount spent, TTL of the marker in ms, then the TTL in ms
-- of each counter, then 1 for a delayed cost: the part that a reconciliation included already is not counted again; then 1
-- for a cost that other processes may report too: each counter counts it once during its TTL. Returns the spent amounts.
-- A retry after a timeout counts once.
local spent = {}
local late, seen = ARGV[4 + #KEYS] == '1', ARGV[5 + #KEYS] == '1'
local first = seen or redis.call('EXISTS', KEYS[1]) == 0
for i = 2, #KEYS do
  local key = KEYS[i]
  local new = first
  if seen then
    new = redis.call('SADD', key .. ':seen', KEYS[1]) == 1
    redis.call('PEXPIRE', key .. ':seen', ARGV[3 + i])
  end
  if new then
    if ARGV[2] ~= '0' and redis.call('ZREM', key .. ':holds', ARGV[1]) == 1 then
      redis.call('HINCRBY', key, 'held', '-' .. ARGV[2])
    end
    redis.call('HINCRBY', key, 'spent', ARGV[3])
    redis.call('PEXPIRE', key, ARGV[3 + i])
    local levelled = late and redis.call('HGET', key, 'levelled') or '0'
    local known = tonumber(levelled) < tonumber(ARGV[3]) and levelled or ARGV[3]
    if known ~= '0' then
      redis.call('HINCRBY', key, 'levelled', '-' .. known)
      redis.call('HINCRBY', key, 'spent', '-' .. known)
    end
  end
  spent[i - 1] = redis.call('HGET', key, 'spent') or '0'
end
if first and not seen then redis.call('SET', KEYS[1], 1, 'PX', ARGV[4]) end
return spent
