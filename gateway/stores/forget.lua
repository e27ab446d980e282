-- Takes back what a call added to a cell. KEYS: the last version, the cell, its version. ARGV: the entry.
local removed = redis.call('ZREM', KEYS[2], ARGV[1])
if removed == 1 then
  redis.call('SET', KEYS[3], redis.call('INCR', KEYS[1]), 'PX', math.max(1, redis.call('PTTL', KEYS[2])) + 60000)
end
return removed
