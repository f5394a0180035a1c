-- Jobs that somebody does not want any more. ARGV[5...] their ids. Answers for each what became of it:
-- 'cancelled' | 'cancelling' (its owner is told) | 'staged' (its video is chosen, so it completes) | 'completed' | 'failed' |
-- 'missing'. Repeating the call answers the same and tells the owner again.

local function cancel(id)
  local key = JOB .. id
  local state, staged, owner = of_job(id, 'state', 'staged', 'owner')
  if not state then return 'missing' end
  if state == 'completed' or state == 'failed' or state == 'cancelled' then return state end
  if staged then return 'staged' end
  if state == 'running' then
    if redis.call('HSETNX', key, 'cancel_ms', integer(now)) == 1 then emit(id, 'running', 'to be cancelled') end
    redis.call('XADD', WISHES, 'MAXLEN', '~', '64', '*', 'instance', owner)
    return 'cancelling'
  end
  if state == 'retrying' then redis.call('ZREM', DELAYED, id) end
  finish_cancelled(id, key)
  return 'cancelled'
end

local answers = {}
for at = 5, #ARGV do answers[#answers + 1] = cancel(ARGV[at]) end
return answers
