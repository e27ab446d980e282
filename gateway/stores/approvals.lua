-- Calls that wait for a person, of all gateways. ARGV: what is done, and what that takes. Times are unix seconds of
-- whoever asks; a yes is over by the clock of Redis too, so that none is used by a gateway whose own is behind.
--   tg:approval:ID     hash: said box tenant session until ends state answers used_by
--   tg:bound:BINDING   ids of that binding, the latest first;  tg:waits:OWNER  ids that are pending, by when they expire
--   tg:approvals       ids by when they were asked
local verb = ARGV[1]

local function at(id) return 'tg:approval:' .. id end

local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local function keep(key, seconds)
  if redis.call('TTL', key) < seconds then redis.call('EXPIRE', key, seconds) end
end

-- Of what is asked for there is one that is pending, and of an owner there are at most so many.
local function ask(now, id, binding, owner, expires, most, kept, seconds)
  for _, other in ipairs(redis.call('LRANGE', 'tg:bound:' .. binding, 0, -1)) do
    local state, over, ends = unpack(redis.call('HMGET', at(other), 'state', 'until', 'ends'))
    local waits = state == 'pending' and tonumber(over) > tonumber(now) and tonumber(ends) > clock()
    if waits then return {'there', other} end
  end
  local waits = 'tg:waits:' .. owner
  redis.call('ZREMRANGEBYSCORE', waits, '-inf', now)
  if redis.call('ZCARD', waits) >= tonumber(most) then
    return {'full', unpack(redis.call('ZRANGE', waits, 0, 0, 'WITHSCORES'))}
  end
  local ends = string.format('%.6f', clock() + tonumber(expires) - tonumber(now))
  redis.call('HSET', at(id), 'until', expires, 'ends', ends, 'state', 'pending', 'answers', '[]', 'used_by', '', unpack(ARGV, 10))
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
  local there = redis.call('HMGET', at(id), 'tenant', 'state', 'answers', 'until', 'used_by', 'ends')
  if there[1] ~= tenant or there[2] ~= from then return 0 end
  if was ~= '' and there[3] ~= was then return 0 end
  if used ~= '' and there[5] ~= used then return 0 end
  if now ~= '' and (tonumber(there[4]) <= tonumber(now) or tonumber(there[6]) <= clock()) then return 0 end
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
