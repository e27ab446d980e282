-- A gateway says that it lives. An empty Redis begins a new epoch, in which no gateway is ready. KEYS: the epoch, the
-- last version, those alive. ARGV: the gateway, the name of a new epoch, the epoch its own part is in, for how
-- long (ms) one that is silent counts as alive. Gives the epoch, who is ready, who is alive.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local epoch = redis.call('GET', KEYS[1])
if not epoch then
  epoch = ARGV[2]
  redis.call('SET', KEYS[1], epoch)
  redis.call('SET', KEYS[2], now) -- so that no version is one of an epoch before
end
local ready = 'tg:ready:' .. epoch
if ARGV[3] == epoch then redis.call('SADD', ready, ARGV[1]) end
redis.call('ZADD', KEYS[3], math.floor(now / 1000), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', math.floor(now / 1000) - 86400000)
local recent = redis.call('ZRANGEBYSCORE', KEYS[3], math.floor(now / 1000) - tonumber(ARGV[4]), '+inf')
return { epoch, redis.call('SMEMBERS', ready), recent }
