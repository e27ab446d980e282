-- Ends what `take` took, once: a call without a lease was settled before, or took nothing. With `buried` (ms) a call
-- that was given up, whose `take` may still be on its way, is remembered, so that it takes nothing when it arrives.
local VERSION, LEASE, OPEN = KEYS[1], KEYS[2], KEYS[3]
local k, a = 3, 0
local function key() k = k + 1; return KEYS[k] end
local function arg() a = a + 1; return ARGV[a] end
local function num() a = a + 1; return tonumber(ARGV[a]) end
local call = redis.call

local id, buried = arg(), num()
local lease = call('GET', LEASE)
if not lease or lease == '' then
  if buried > 0 then call('SET', LEASE, '', 'PX', buried) end
  return 0
end
call('DEL', LEASE)
call('SREM', OPEN, id)
if buried > 0 then call('SET', LEASE, '', 'PX', buried) end

for _ = 1, num() do
  call('ZREM', key(), id)
end
for _ = 1, num() do -- claims of what was never dispatched
  local claim = key()
  if call('HGET', claim, 'call') == id then call('DEL', claim) end
end
-- what was granted is taken back; of a call that was given up nobody but the lease knows it
local granted = cmsgpack.unpack(lease)[1][2]
local spent = {}
for _ = 1, num() do
  local name = arg()
  spent[name] = num()
end
local had = {}
for g = 1, #granted, 2 do had[granted[g]] = granted[g + 1] end
for _ = 1, num() do
  local account = key()
  if call('EXISTS', account) == 1 then
    for name, amount in pairs(had) do
      local less = (spent[name] or 0) - amount
      if less ~= 0 then call('HINCRBY', account, name, less) end
    end
    for name, amount in pairs(spent) do
      if not had[name] and amount ~= 0 then call('HINCRBY', account, name, amount) end
    end
  end
end
for _ = 1, num() do -- entries: out with one, in with the other, if there is one
  local cell, v, out, into, at, ttl = key(), key(), arg(), arg(), arg(), num()
  if call('ZREM', cell, out) == 1 then
    if into ~= '' then call('ZADD', cell, at, into) end
    call('SET', v, call('INCR', VERSION), 'PX', ttl)
  end
end
return 1
