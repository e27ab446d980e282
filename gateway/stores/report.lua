-- Adds to accounts what only the client knows of. KEYS: accounts. ARGV: how many amounts, each name and amount; then of
-- each account how long it is remembered (ms). Gives what each dimension was before, account by account.
local before = {}
local n = tonumber(ARGV[1])
for i, account in ipairs(KEYS) do
  for j = 0, n - 1 do
    local amount = tonumber(ARGV[2 + 2 * j + 1])
    before[#before + 1] = redis.call('HINCRBY', account, ARGV[2 + 2 * j], amount) - amount
  end
  redis.call('PEXPIRE', account, ARGV[1 + 2 * n + i])
end
return before
