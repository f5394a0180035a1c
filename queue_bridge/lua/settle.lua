-- The end of a start, by its owner. ARGV[5] job, [6] token, [7] the new state, [8] cause,
-- [9] delay in ms (retrying), [10] lane (queued at another resolution) or '', [11] error or '', [12] kind of failure
-- or '', [13] result (JSON) or '', [14] 1 for the dead letter, [15] counter to add one to or '', [16] history (JSON) or ''.
-- Answers 'ok' | 'stale' | 'missing'. A repeated call of the same owner answers 'ok' again.
local id, token, target, cause = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local key = JOB .. id
local state, current = unpack(redis.call('HMGET', key, 'state', 'token'))
if not state then return 'missing' end
if current ~= token then return 'stale' end
if state ~= 'running' then return state == target and 'ok' or 'stale' end
if not NEXT[target] then return redis.error_reply('a running job cannot become ' .. target) end

redis.call('ZREM', LEASES, id)
if ARGV[15] ~= '' then step(key, ARGV[15], 1) end
if ARGV[16] ~= '' then remember(key, cjson.decode(ARGV[16])) end
if ARGV[11] ~= '' then redis.call('HSET', key, 'error', ARGV[11], 'error_kind', ARGV[12]) end

if target == 'queued' then
  if ARGV[10] ~= '' then redis.call('HSET', key, 'lane', ARGV[10]) end
  give_back(id, key, cause)
elseif target == 'retrying' then
  local due = now + tonumber(ARGV[9])
  redis.call('HSET', key, 'state', 'retrying', 'owner', '', 'stage', '', 'due_ms', integer(due))
  redis.call('ZADD', DELAYED, due, id)
  emit(id, 'retrying', cause, 'due', integer(due))
  wake()
elseif target == 'completed' then
  redis.call('HDEL', key, 'error', 'error_kind', 'staged')
  finish(id, key, target, cause, 'result', ARGV[13], 'percent', 100, 'stage', '')
else
  if ARGV[14] == '1' then redis.call('ZADD', DEAD, now, id) end
  finish(id, key, target, cause)
end
return 'ok'
