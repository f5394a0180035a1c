-- A failed or cancelled job back into its lane, with all its budgets. ARGV[5] job. Answers 'ok' | its state | 'missing'.
local id, key = ARGV[5], JOB .. ARGV[5]
local state = redis.call('HGET', key, 'state')
if not state then return 'missing' end
if state ~= 'failed' and state ~= 'cancelled' then return state end
redis.call('ZREM', DEAD, id)
redis.call('HDEL', key, 'failures', 'crashes', 'degradations', 'percent', 'error', 'error_kind', 'ended_ms')
redis.call('HINCRBY', TOTALS, state, -1)
count_in_batch(key, state, -1)
give_back(id, key, 'retried by hand')
return 'ok'
