-- Drops the outcomes that were content of a session. KEYS: the claims of the session. ARGV: its uid.
for _, claim in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('HGET', claim, 'session') == ARGV[1] then redis.call('HDEL', claim, 'kept') end
end
return redis.call('DEL', KEYS[1])
