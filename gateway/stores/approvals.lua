-- Calls that wait for a person, of all gateways. ARGV: what is done, and what that takes. Times are unix seconds of
-- whoever asks.
--   tg:approval:ID     hash: said box tenant session until state answers used_by
--   tg:bound:BINDING   ids of that binding, the latest first;  tg:waits:OWNER  ids that are pending, by when they expire
--   tg:approvals       ids by when they were asked
local verb = ARGV[1]

local function at(id) return 'tg:approval:' .. id end

local function keep(key, seconds)
  if redis.call('TTL', key) < seconds then redis.call('EXPIRE', key, seconds) end
end

-- Of what is asked for there is one that is pending, and of an owner there are at most so many.
local function ask(now, id, binding, owner, expires, most, kept, seconds)
  for _, other in ipairs(redis.call('LRANGE', 'tg:bound:' .. binding, 0, -1)) do
    local state, ends = unpack(redis.call('HMGET', at(other), 'state', 'until'))
    if state == 'pending' and tonumber(ends) > tonumber(now) then return {'there', other} end
  end
  local waits = 'tg:waits:' .. owner
  redis.call('ZREMRANGEBYSCORE', waits, '-inf', now)
  if redis.call('ZCARD', waits) >= tonumber(most) then
    return {'full', unpack(redis.call('ZRANGE', waits, 0, 0, 'WITHSCORES'))}
  end
  redis.call('HSET', at(id), 'until', expires, 'state', 'pending', 'answers', '[]', 'used_by', '', unpack(ARGV, 10))
  redis.call('EXPIRE', at(id), seconds)
  redis.call('LPUSH', 'tg:bound:' .. binding, id)
  redis.call('LTRIM', 'tg:bound:' .. binding, 0, 63)
  keep('tg:bound:' .. binding, seconds)
  redis.call('ZADD', waits, expires, id)
  keep(waits, seconds)
  redis.call('ZADD', 'tg:approvals', now, id)
  redis.call('ZREMRANGEBYSCORE', 'tg:approvals', '-inf', tonumber(now) - tonumber(kept))
  return {'kept'}
end

-- From one state with these answers to another, while it has not expired (`now` is empty where that is no matter).
local function change(id, tenant, owner, now, from, was, used, state, answers, by)
  local there = redis.call('HMGET', at(id), 'tenant', 'state', 'answers', 'until', 'used_by')
  if there[1] ~= tenant or there[2] ~= from then return 0 end
  if was ~= '' and there[3] ~= was then return 0 end
  if used ~= '' and there[5] ~= used then return 0 end
  if now ~= '' and tonumber(there[4]) <= tonumber(now) then return 0 end
  redis.call('HSET', at(id), 'state', state, 'used_by', by)
  if answers ~= '' then redis.call('HSET', at(id), 'answers', answers) end
  if state ~= 'pending' then redis.call('ZREM', 'tg:waits:' .. owner, id) end
  return 1
end

if verb == 'ask' then
  local now, id, binding, owner, expires, most, kept, seconds = unpack(ARGV, 2, 9)
  return ask(now, id, binding, owner, expires, most, kept, tonumber(seconds))
end
return change(unpack(ARGV, 2, 11))
