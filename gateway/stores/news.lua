-- Tells all gateways that things of a kind changed, in the step that changes them. `ids` have spaces between them;
-- `by` is the gateway that does it, which is not told itself.
local function tell(kind, ids, by)
  local n = redis.call('INCR', 'tg:news:n')
  redis.call('XADD', 'tg:news', 'MAXLEN', '~', 10000, '*', 'n', n, 'kind', kind, 'ids', ids, 'by', by)
end
