-- A failed or cancelled job back into its lane, with all its budgets. ARGV[5] job. Answers 'ok' | its state | 'missing'.
local id, key = ARGV[5], JOB .. ARGV[5]
local state = of_job(id, 'state')
if not state then return 'missing' end
if state ~= 'failed' and state ~= 'cancelled' then return state end
redis.call('ZREM', DEAD, id)
redis.call('LREM', ENDED, -1, id)
redis.call('HDEL', key, 'failures', 'crashes', 'degradations', 'device_faults', 'redraws', 'percent', 'error', 'error_kind',
  'ended_ms', 'stage', 'ahead', 'ahead_boot', 'passed')
local first_lane = redis.call('HGET', key, 'first_lane')  -- where it was before the card's memory did not suffice
if first_lane then
  redis.call('HSET', key, 'lane', first_lane)
  redis.call('HDEL', key, 'first_lane')
end
redis.call('HINCRBY', TOTALS, state, -1)
count_in_batch(key, state, -1)
local caller = redis.call('HGET', key, 'caller')
if caller then redis.call('HINCRBY', UNENDED, caller, 1) end
give_back(id, key, 'retried by hand')
return 'ok'
