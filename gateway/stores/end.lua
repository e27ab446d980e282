-- What became of a claim, if that call has it: `done`, `unknown`, or `free`. KEYS: the claim, the claims of its session.
if redis.call('HGET', KEYS[1], 'call') ~= ARGV[1] then return 0 end
if ARGV[2] == 'free' then
  redis.call('DEL', KEYS[1])
elseif ARGV[2] == 'done' then
  redis.call('HSET', KEYS[1], 'state', 'done', 'kept', ARGV[3], 'session', ARGV[4])
  redis.call('SADD', KEYS[2], KEYS[1])
  local left = redis.call('PTTL', KEYS[1])
  if redis.call('PTTL', KEYS[2]) < left then redis.call('PEXPIRE', KEYS[2], left) end
else
  redis.call('HSET', KEYS[1], 'state', ARGV[2])
end
return 1
