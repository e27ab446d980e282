-- Sessions that several gateways share. ARGV: the gateway, what is done, and what that takes. Each change bumps the
-- version `v` of every session it touches and is told, in one step; calls and cost bump nothing.
--   tg:session:UID  hash: v id owner opened expires labels state calls cost budget parent ended
--   tg:words:UID    what the person asked for, turn by turn, sealed
--   tg:below:UID    the sessions just below
--   tg:names:OWNER  id -> uid
--   tg:ends         uid by when it expires;  tg:owed  uid by when its end is offered (again) to be put on record
local by, verb = ARGV[1], ARGV[2]
local AFTER = 86400 -- seconds for which an ended session is remembered
local touched = {}

local function at(uid) return 'tg:session:' .. uid end
local function get(uid, field) return redis.call('HGET', at(uid), field) end

local function bump(uid)
  redis.call('HINCRBY', at(uid), 'v', 1)
  touched[#touched + 1] = uid
end

-- Redis forgets a key some time after its session has expired.
local function keep(uid, key)
  local opened, expires = unpack(redis.call('HMGET', at(uid), 'opened', 'expires'))
  local seconds = math.ceil(tonumber(expires) - tonumber(opened)) + AFTER
  if redis.call('TTL', key) < seconds then redis.call('EXPIRE', key, seconds) end
end

local function words(text)
  local found = {}
  for word in string.gmatch(text or '', '%S+') do found[word] = true end
  return found
end

local function below(uid) return redis.call('SMEMBERS', 'tg:below:' .. uid) end

local function top(uid)
  local above = get(uid, 'parent')
  while above and above ~= '' and redis.call('EXISTS', at(above)) == 1 do
    uid = above
    above = get(uid, 'parent')
  end
  return uid
end

-- Labels to every session of the tree that has not all of them.
local function spread(uid, labels)
  local waiting = {top(uid)}
  while #waiting > 0 do
    local there = table.remove(waiting)
    local has = get(there, 'labels')
    if has then
      for _, each in ipairs(below(there)) do waiting[#waiting + 1] = each end
      local known, more = words(has), has
      for label in pairs(words(labels)) do
        if not known[label] then more = more .. ' ' .. label end
      end
      if more ~= has then
        redis.call('HSET', at(there), 'labels', more)
        bump(there)
      end
    end
  end
end

local function close(uid, how, due)
  local waiting, owed = {{uid, how}}, {}
  while #waiting > 0 do
    local there, said = unpack(table.remove(waiting))
    for _, each in ipairs(below(there)) do waiting[#waiting + 1] = {each, '{"why": "parent"}'} end
    if get(there, 'state') == 'open' then
      redis.call('HSET', at(there), 'state', 'closed', 'ended', said)
      bump(there)
      if redis.call('ZREM', 'tg:ends', there) == 1 then -- else that it expired was told already
        redis.call('ZADD', 'tg:owed', due, there)
        owed[#owed + 1] = there
      end
    end
  end
  return owed
end

-- Keeps a session as it is given, with fields in pairs from ARGV[first] on, and what was asked for in it.
local function put(uid, id, owner, expires, parent, first, last)
  redis.call('HSET', at(uid), 'id', id, 'owner', owner, 'expires', expires, 'parent', parent, unpack(ARGV, first, last))
  keep(uid, at(uid))
  redis.call('HSET', 'tg:names:' .. owner, id, uid)
  keep(uid, 'tg:names:' .. owner)
  if parent ~= '' then
    redis.call('SADD', 'tg:below:' .. parent, uid)
    keep(uid, 'tg:below:' .. parent)
  end
  for n = last + 1, #ARGV do redis.call('RPUSH', 'tg:words:' .. uid, ARGV[n]) end
  if last < #ARGV then keep(uid, 'tg:words:' .. uid) end
end

local function open(now, uid, id, owner, expires, parent, labels, last)
  local there = redis.call('HGET', 'tg:names:' .. owner, id)
  if there then
    local state, ends = unpack(redis.call('HMGET', at(there), 'state', 'expires'))
    if state and tonumber(ends) > tonumber(now) then
      return {state, there}
    end
  end
  if parent ~= '' then
    local state, ends = unpack(redis.call('HMGET', at(parent), 'state', 'expires'))
    if state ~= 'open' or tonumber(ends) <= tonumber(now) then return {'above'} end
  end
  put(uid, id, owner, expires, parent, 11, tonumber(last))
  redis.call('HSET', at(uid), 'labels', labels)
  redis.call('ZADD', 'tg:ends', expires, uid)
  bump(uid)
  if parent ~= '' then spread(uid, labels .. ' ' .. (get(top(uid), 'labels') or '')) end
  return {'fresh', uid}
end

-- A session that a gateway remembers and Redis may not: what both know of it together.
local function restore(v, state, uid, id, owner, expires, parent, labels, last)
  if redis.call('EXISTS', at(uid)) == 0 then
    put(uid, id, owner, expires, parent, 12, tonumber(last))
    redis.call('HSET', at(uid), 'labels', labels, 'state', state, 'v', v)
    if state == 'open' then redis.call('ZADD', 'tg:ends', expires, uid) end
    touched[#touched + 1] = uid
    return
  end
  if state == 'closed' and get(uid, 'state') == 'open' then
    redis.call('HSET', at(uid), 'state', state)
    redis.call('ZREM', 'tg:ends', uid)
    bump(uid)
  end
  spread(uid, labels)
  if tonumber(get(uid, 'v')) < tonumber(v) then redis.call('HSET', at(uid), 'v', v) end
end

-- What has ended and is not on record: given to whoever asks, and to nobody else before `due`.
local function owing(now, due)
  for _, uid in ipairs(redis.call('ZRANGEBYSCORE', 'tg:ends', '-inf', now, 'LIMIT', 0, 100)) do
    redis.call('ZREM', 'tg:ends', uid)
    redis.call('HSETNX', at(uid), 'ended', '{"why": "expired"}')
    redis.call('ZADD', 'tg:owed', 0, uid)
  end
  local found = redis.call('ZRANGEBYSCORE', 'tg:owed', '-inf', now, 'LIMIT', 0, 100)
  for _, uid in ipairs(found) do redis.call('ZADD', 'tg:owed', due, uid) end
  return found
end

local answer
if verb == 'open' then
  answer = open(unpack(ARGV, 3, 10))
elseif verb == 'label' then
  spread(ARGV[3], ARGV[4])
elseif verb == 'ask' then
  if get(ARGV[3], 'state') == 'open' then
    redis.call('RPUSH', 'tg:words:' .. ARGV[3], ARGV[4])
    keep(ARGV[3], 'tg:words:' .. ARGV[3])
    bump(ARGV[3])
  end
elseif verb == 'close' then
  answer = close(ARGV[3], ARGV[4], ARGV[5])
elseif verb == 'restore' then
  restore(unpack(ARGV, 3, 11))
elseif verb == 'owing' then
  answer = owing(ARGV[3], ARGV[4])
elseif verb == 'forget' then
  for n = 3, #ARGV do
    if redis.call('DEL', 'tg:words:' .. ARGV[n]) == 1 then touched[#touched + 1] = ARGV[n] end
  end
elseif verb == 'spent' then
  for n = 3, #ARGV, 3 do
    if redis.call('EXISTS', at(ARGV[n])) == 1 then
      redis.call('HINCRBY', at(ARGV[n]), 'calls', ARGV[n + 1])
      redis.call('HINCRBYFLOAT', at(ARGV[n]), 'cost', ARGV[n + 2])
      touched[#touched + 1] = ARGV[n]
    end
  end
end
if #touched > 0 then tell('session', table.concat(touched, ' '), by) end
return {answer or {}, touched}
