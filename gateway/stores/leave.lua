-- Settles a call that a life before of its gateway left open, by what the ledger says of it. KEYS: the last version, the
-- lease, the open calls of the gateway, the claims of the session. ARGV: the call, `refused` if it never ran, else how
-- its claim ended, what is kept of that, the session. One that ran stays spent.
local call = redis.call
local id, ended = ARGV[1], ARGV[2]
call('SREM', KEYS[3], id)
local lease = call('GET', KEYS[2])
if not lease or lease == '' then return 0 end
call('DEL', KEYS[2])
local answer, slots, accounts, claim, added = unpack(cmsgpack.unpack(lease))
for _, slot in ipairs(slots) do call('ZREM', slot, id) end
local ours = claim ~= '' and call('HGET', claim, 'call') == id
if ended == 'refused' then
  if ours then call('DEL', claim) end
  for _, account in ipairs(accounts) do
    for g = 1, #answer[2], 2 do
      if call('EXISTS', account) == 1 then call('HINCRBY', account, answer[2][g], -answer[2][g + 1]) end
    end
  end
  for _, entry in ipairs(added) do
    if call('ZREM', entry[1], entry[3]) == 1 then
      call('SET', entry[2], call('INCR', KEYS[1]), 'PX', math.max(1, call('PTTL', entry[1])) + 60000)
    end
  end
elseif ours and call('HGET', claim, 'state') == 'in_progress' then
  call('HSET', claim, 'state', ended)
  if ended == 'done' then
    call('HSET', claim, 'kept', ARGV[3], 'session', ARGV[4])
    call('SADD', KEYS[4], claim)
    call('PEXPIRE', KEYS[4], math.max(1, call('PTTL', claim)))
  end
end
return 1
