-- Takes all that one call asks for, or nothing and says why. Asked again for the same call it gives the same answer.
-- Nothing is written before everything was checked. Times are microseconds on the clock of this server.
--   tg:epoch          which life of this Redis the counts are of
--   tg:version        the last version that any cell had
--   tg:lease:CALL     the answer and what was taken, until the call is settled; empty when it was given up before
--   tg:open:GATEWAY   its calls that are not settled
--   tg:claim:KEY      hash: call fp state until ends kept session
--   tg:slot:KEY       calls by when their place comes back by itself
--   tg:rate:KEY       the theoretical arrival time (GCRA)
--   tg:used:KEY       hash: what is used up of each dimension
--   tg:cell:KEY       entries by their time;  tg:v:KEY  version of the cell;  tg:values:OWNER  cells by when they end
local EPOCH, VERSION, LEASE, OPEN = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local k, a = 4, 0
local function key() k = k + 1; return KEYS[k] end
local function arg() a = a + 1; return ARGV[a] end
local function num() a = a + 1; return tonumber(ARGV[a]) end
local call = redis.call
local PARTIAL = { wall = true, sandbox = true, bytes = true }

local epoch, id, lasts, remembered, forced, now = arg(), arg(), num(), num(), arg() == '1', num()
if call('GET', EPOCH) ~= epoch then return { 'epoch' } end
local before = call('GET', LEASE)
if before == '' then return { 'late' } end
if before then return cmsgpack.unpack(before)[1] end
if now < 0 then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end
local ms = math.floor(now / 1000)

local function atleast(name, ttl)
  if call('PTTL', name) < ttl then call('PEXPIRE', name, ttl) end
end

-- the claim
local claim, fingerprint, claimed = nil, nil, 0
if num() == 1 then
  claim, fingerprint, claimed = key(), arg(), num()
  local there = call('HMGET', claim, 'call', 'fp', 'state', 'until', 'ends')
  if there[1] and tonumber(there[5]) > now and not (forced and there[1] == id) then
    local state = there[3]
    if state == 'in_progress' and tonumber(there[4]) <= now then state = 'unknown' end
    return { 'claimed', there[1], there[2], state, there[4] }
  end
end

-- the session, as it was decided on
if num() == 1 then
  local version = call('HGET', key(), 'v')
  local seen = arg()
  if version and version ~= seen and not forced then return { 'session' } end
end

-- places
local slots = {}
for i = 1, num() do
  local slot, most = key(), num()
  call('ZREMRANGEBYSCORE', slot, '-inf', ms)
  if not forced and call('ZCARD', slot) >= most then return { 'concurrency', i } end
  slots[i] = slot
end

-- rates
local buckets, arrivals, intervals, aheads, wait, slowest = {}, {}, {}, {}, 0, 0
for i = 1, num() do
  local bucket, interval, per = key(), num(), num()
  local arrival = math.max(tonumber(call('GET', bucket) or 0), now)
  -- further ahead than any call brings it: another rate left that, or the clock was set back since
  if arrival > now + per + interval then arrival = now + per - interval end
  buckets[i], arrivals[i], intervals[i], aheads[i] = bucket, arrival, interval, arrival - now
  local early = arrival + interval - per - now
  if early > wait then wait, slowest = early, i end
end
if slowest > 0 and not forced then return { 'rate', slowest, wait, aheads } end

-- budgets
local names, gives = {}, {}
for i = 1, num() do
  names[i] = arg()
  gives[names[i]] = num()
end
local wants = {}
for name, amount in pairs(gives) do wants[name] = amount end
local accounts = {}
for i = 1, num() do
  local account = { key = key(), lasts = num(), most = {} }
  for _ = 1, num() do
    local name, most = arg(), num()
    local had = tonumber(call('HGET', account.key, name) or 0)
    local left, want = most - had, wants[name] or 0
    account.most[name] = most
    if not forced then
      if left <= 0 and (name == 'tokens' or (want > 0 and PARTIAL[name])) then
        return { 'budget', i, name, had, want }
      end
      if PARTIAL[name] then
        if want > 0 then gives[name] = math.min(gives[name], left) end
      elseif want > left then
        return { 'budget', i, name, had, want }
      end
    end
  end
  accounts[i] = account
end

-- declared state
for _ = 1, num() do
  local version = call('GET', key()) or '0'
  if version ~= arg() and not forced then return { 'changed' } end
end
local entries = {}
for i = 1, num() do
  local e = { cell = key(), v = key(), values = key(), name = arg(), at = arg(), member = arg() }
  e.floor, e.ttl, e.most = arg(), num(), num()
  if e.name ~= '' and not forced and not call('ZSCORE', e.values, e.name) then
    call('ZREMRANGEBYSCORE', e.values, '-inf', ms)
    if call('ZCARD', e.values) >= e.most then return { 'full' } end
  end
  entries[i] = e
end

-- all of it is there: take it
for _, slot in ipairs(slots) do
  call('ZADD', slot, ms + lasts, id)
  atleast(slot, lasts + 1000)
end
for i, bucket in ipairs(buckets) do
  if not forced then
    local arrival = arrivals[i] + intervals[i]
    aheads[i] = arrival - now
    call('SET', bucket, arrival, 'PX', math.ceil(aheads[i] / 1000) + 1)
  end
end
if claim then
  call('HSET', claim, 'call', id, 'fp', fingerprint, 'state', 'in_progress', 'until', now + lasts * 1000,
    'ends', now + claimed * 1000)
  call('PEXPIRE', claim, claimed)
end
local granted, warned = {}, {}
for _, name in ipairs(names) do
  if gives[name] ~= 0 then
    granted[#granted + 1] = name
    granted[#granted + 1] = gives[name]
  end
end
for i, account in ipairs(accounts) do
  for g = 1, #granted, 2 do
    local name, amount = granted[g], granted[g + 1]
    local used = call('HINCRBY', account.key, name, amount)
    local most = account.most[name]
    if most and (used - amount) * 5 < most * 4 and used * 5 >= most * 4 then
      warned[#warned + 1] = { i, name, used }
    end
  end
  if #granted > 0 then call('PEXPIRE', account.key, account.lasts) end
end
local crowded, added = {}, {}
for i, e in ipairs(entries) do
  call('ZREMRANGEBYSCORE', e.cell, '-inf', e.floor)
  call('ZADD', e.cell, e.at, e.member)
  atleast(e.cell, e.ttl)
  call('SET', e.v, call('INCR', VERSION), 'PX', e.ttl)
  if e.name ~= '' then
    call('ZADD', e.values, ms + e.ttl, e.name)
    atleast(e.values, e.ttl)
  end
  crowded[i] = call('ZCARD', e.cell)
  added[i] = { e.cell, e.v, e.member }
end
local answer = { 'taken', granted, aheads, warned, crowded }
local drawn = {}
for i, account in ipairs(accounts) do drawn[i] = account.key end
call('SET', LEASE, cmsgpack.pack({ answer, slots, drawn, claim or '', added }), 'PX', remembered)
call('SADD', OPEN, id)
return answer
