-- Something that only becomes more certain: a field is written once, or, where it says `least`, only ever made smaller.
-- So whoever knows it may say it again, in any order. ARGV: the gateway, the kind, the id, then field, value, how.
local by, kind, id = ARGV[1], ARGV[2], ARGV[3]
local key = 'tg:' .. kind .. ':' .. id
local changed = redis.call('SADD', 'tg:' .. kind, id) == 1
for n = 4, #ARGV, 3 do
  local field, value, how = ARGV[n], ARGV[n + 1], ARGV[n + 2]
  if redis.call('HSETNX', key, field, value) == 1 then
    changed = true
  elseif how == 'least' and tonumber(value) < tonumber(redis.call('HGET', key, field)) then
    redis.call('HSET', key, field, value)
    changed = true
  end
end
if changed then tell(kind, id, by) end
return 0
