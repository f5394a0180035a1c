-- ARGV[5] job, [6] token, [7] percent, [8] stage, [9] seconds left or ''. Percent never goes back, over all starts.
-- Answers 'ok' or 'stale'.
local id, key = ARGV[5], JOB .. ARGV[5]
local state, token, percent = of_job(id, 'state', 'token', 'percent')
if state ~= 'running' or token ~= ARGV[6] then return 'stale' end
local shown = math.max(tonumber(ARGV[7]), tonumber(percent) or 0)
redis.call('HSET', key, 'percent', tostring(shown), 'stage', ARGV[8], 'seconds_left', ARGV[9])
emit(id, 'running', 'progress', 'percent', tostring(shown), 'stage', ARGV[8], 'seconds_left', ARGV[9])
return 'ok'
