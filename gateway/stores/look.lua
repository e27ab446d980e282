-- What cells hold: for each its version, and its entries by their time unless the version is the one known already.
local found = {}
for i = 1, #KEYS, 2 do
  local version = redis.call('GET', KEYS[i + 1]) or '0'
  if version == ARGV[(i + 1) / 2] then
    found[#found + 1] = { version }
  else
    found[#found + 1] = { version, redis.call('ZRANGE', KEYS[i], 0, -1, 'WITHSCORES') }
  end
end
return found
