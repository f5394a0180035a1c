-- The end of a start, by its owner. ARGV[5] job, [6] token, [7] the new state, [8] cause,
-- [9] delay in ms (retrying), [10] lane (queued at another resolution) or '', [11] error or '', [12] kind of failure
-- or '', [13] what is kept of a completed job (packed) or '', [14] 1 for the dead letter, [15] counter to add one to or '',
-- [16] history (JSON) or '', [17] 1 when the video's place is to be remembered, as it is removed by age,
-- [18...] what a completed job adds to the counts of all jobs: fields and numbers in turn (figures.py).
-- Answers 'ok' | 'stale' | 'missing'. A repeated call of the same owner answers 'ok' again. A job that an operator has
-- cancelled meanwhile ends as that, whatever else has become of its start, unless it has completed.
local id, token, target, cause = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local key = JOB .. id
local state, current = of_job(id, 'state', 'token')
if not state then return 'missing' end
if (current or state == 'completed' and FIRST_TOKEN) ~= token then return 'stale' end
if state ~= 'running' then
  return (state == target or (state == 'cancelled' and target ~= 'completed')) and 'ok' or 'stale'
end
if not NEXT[target] then return redis.error_reply('a running job cannot become ' .. target) end

redis.call('ZREM', LEASES, id)
if redis.call('HDEL', key, 'cancel_ms') == 1 and target ~= 'completed' then
  finish_cancelled(id, key)
  return 'ok'
end
if ARGV[15] ~= '' then
  step(key, ARGV[15])
  if ARGV[15] ~= 'failures' then tally('returned:' .. ARGV[15]) end
end
if ARGV[16] ~= '' then remember(key, cjson.decode(ARGV[16])) end
if ARGV[11] ~= '' then redis.call('HSET', key, 'error', ARGV[11], 'error_kind', ARGV[12]) end

if target == 'queued' then
  if ARGV[10] ~= '' then
    redis.call('HSETNX', key, 'first_lane', redis.call('HGET', key, 'lane'))
    redis.call('HSET', key, 'lane', ARGV[10])
  end
  give_back(id, key, cause)
elseif target == 'retrying' then
  local due = now + tonumber(ARGV[9])
  redis.call('HSET', key, 'state', 'retrying', 'owner', '', 'stage', '', 'due_ms', integer(due))
  redis.call('ZADD', DELAYED, due, id)
  tally('returned:retries')
  emit(id, 'retrying', cause, 'due', integer(due))
  wake()
elseif target == 'completed' then
  local staged = ARGV[17] == '1' and redis.call('HGET', key, 'staged')
  local file = staged and cjson.decode(staged)
  if file and file.place then
    redis.call('ZADD', RESULTS, now, file.place)
    redis.call('HSET', RESULT_FILES, file.place, cjson.encode({ job = id, bytes = file.bytes, sha256 = file.sha256 }))
  end
  for at = 18, #ARGV, 2 do redis.call('HINCRBY', FIGURES, ARGV[at], ARGV[at + 1]) end
  finish_completed(id, key, token, ARGV[13])
else
  if ARGV[14] == '1' then redis.call('ZADD', DEAD, now, id) end
  finish(id, key, target, cause)
end
return 'ok'
