-- The one result of a job, chosen before it is published. ARGV[5] job, [6] token, [7] the staged result (JSON).
-- From here on no later start makes another: it publishes this one. Answers 'ok' or 'stale'.
local key = JOB .. ARGV[5]
local state, token = unpack(redis.call('HMGET', key, 'state', 'token'))
if state ~= 'running' or token ~= ARGV[6] then return 'stale' end
redis.call('HSET', key, 'staged', ARGV[7])
emit(ARGV[5], 'running', 'staged', 'token', token)
return 'ok'
