-- Puts back what one gateway's ledger says, once for each thing. KEYS: what this gateway has put back, the thing. ARGV:
-- its kind, when it ends (unix ms), what is to be said of it.
local kind, ends = ARGV[1], math.floor(tonumber(ARGV[2]))
local done, name = KEYS[1], KEYS[2]
local call = redis.call
if kind == 'rate' then
  if tonumber(ARGV[3]) > tonumber(call('GET', name) or 0) then call('SET', name, ARGV[3], 'PXAT', ends) end
  return 1
end
if call('SADD', done, name) == 0 then return 0 end
if call('TTL', done) < 0 then call('EXPIRE', done, 86400) end
if kind == 'used' then
  for i = 3, #ARGV, 2 do call('HINCRBY', name, ARGV[i], ARGV[i + 1]) end
elseif call('EXISTS', name) == 0 then
  call('HSET', name, unpack(ARGV, 3))
end
local time = call('TIME')
local ttl = ends - (time[1] * 1000 + math.floor(time[2] / 1000))
if ttl > call('PTTL', name) then call('PEXPIREAT', name, ends) end
return 1
