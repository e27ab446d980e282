-- Adds entries of the past to a cell, those that are not there yet. KEYS: the cell, its version, the last version, the
-- cells of its owner. ARGV: how long it is remembered (ms), the value it is of, then each entry's time and member.
local added = 0
for i = 3, #ARGV, 2 do
  added = added + redis.call('ZADD', KEYS[1], 'NX', ARGV[i], ARGV[i + 1])
end
if added > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  redis.call('SET', KEYS[2], redis.call('INCR', KEYS[3]), 'PX', ARGV[1])
  if ARGV[2] ~= '' then
    local time = redis.call('TIME')
    redis.call('ZADD', KEYS[4], time[1] * 1000 + ARGV[1], ARGV[2])
    if redis.call('PTTL', KEYS[4]) < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[4], ARGV[1]) end
  end
end
return added
