-- Jobs into their streams. ARGV[5] 1 to make a job anew where the same one has ended; then six values a job:
-- id, idempotency key or '', class, lane, batch or '', spec (JSON).
-- Answers for each {id, 1 when it was made now, state}. Repeating the call makes nothing twice.
local again = ARGV[5] == '1'
local answers, made = {}, false
for at = 6, #ARGV, 6 do
  local id, idempotency, class, lane, batch, spec = unpack(ARGV, at, at + 5)
  local known = id
  if redis.call('EXISTS', JOB .. id) == 0 and idempotency ~= '' then
    known = redis.call('GET', IDEMPOTENCY .. idempotency) or id
  end
  local state = redis.call('HGET', JOB .. known, 'state')
  local ended = state == 'completed' or state == 'failed' or state == 'cancelled'
  if state and not (again and ended and known ~= id) then
    answers[#answers + 1] = { known, 0, state }
  else
    local place = redis.call('HINCRBY', TOTALS, 'submitted', 1)  -- in the order of all submissions, over all lanes
    local entry = redis.call('XADD', QUEUE .. class .. ':' .. lane, '*', 'job', id, 'place', place)
    redis.call('HSET', JOB .. id, 'id', id, 'spec', spec, 'state', 'queued', 'class', class, 'lane', lane,
      'batch', batch, 'idempotency_key', idempotency, 'submitted_ms', integer(now), 'place', place, 'token', 0, 'attempt', 0,
      'failures', 0, 'crashes', 0, 'degradations', 0, 'percent', 0, 'stage', '', 'owner', '', 'entry', entry)
    if idempotency ~= '' then redis.call('SET', IDEMPOTENCY .. idempotency, id) end
    if batch ~= '' then
      redis.call('HSETNX', BATCH .. batch, 'submitted_ms', integer(now))
      redis.call('HINCRBY', BATCH .. batch, 'total', 1)
      redis.call('PEXPIRE', BATCH .. batch, BATCH_KEPT_MS)
    end
    redis.call('SADD', LANES, class .. ':' .. lane)
    emit(id, 'queued', 'submitted')
    made = true
    answers[#answers + 1] = { id, 1, 'queued' }
  end
end
if made then wake() end
return answers
