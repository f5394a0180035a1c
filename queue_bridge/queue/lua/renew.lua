-- A longer lease for its owner. ARGV[5] job, [6] token, [7] lease in ms. Answers 'ok' or 'stale'.
local state, token = of_job(ARGV[5], 'state', 'token')
if state ~= 'running' or token ~= ARGV[6] then return 'stale' end
redis.call('ZADD', LEASES, 'XX', now + tonumber(ARGV[7]), ARGV[5])
return 'ok'
