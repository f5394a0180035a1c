-- The one result of a job, chosen before it is published. ARGV[5] job, [6] token, [7] the staged result (JSON).
-- From here on no later start makes another: it publishes this one; and nobody can cancel the job any more. '' takes the
-- choice back, where the video is gone. Answers 'ok', 'stale', or 'cancelled' when that was wished before.
local key = JOB .. ARGV[5]
local state, token = of_job(ARGV[5], 'state', 'token')
if state ~= 'running' or token ~= ARGV[6] then return 'stale' end
if ARGV[7] == '' then
  redis.call('HDEL', key, 'staged')
  return 'ok'
end
if redis.call('HEXISTS', key, 'cancel_ms') == 1 then return 'cancelled' end
redis.call('HSET', key, 'staged', ARGV[7])
emit(ARGV[5], 'running', 'staged', 'token', token)
return 'ok'
