-- Replaces the oldest entries of a full cell by lumps, which hold the same. KEYS: the cell, its version. ARGV: the
-- version that was read, how many go, these, then each lump's time and member.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local n = tonumber(ARGV[2])
for i = 3, n + 2 do redis.call('ZREM', KEYS[1], ARGV[i]) end
for i = n + 3, #ARGV, 2 do redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
