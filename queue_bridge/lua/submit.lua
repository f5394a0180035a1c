-- Jobs into their lanes. ARGV[5] 1 to make a job anew where the same one has ended, [6] who submits or '', [7] how many
-- jobs of that caller may not have ended or 0; then for each run of jobs that belong together: class, lane, batch or '',
-- callback or '', how many; and for each of them id, short idempotency key or '', what it asks for (packed). Answers
-- {number, id, state} in a row for each job that was there before; all others were made. Or {'full', how many have not
-- ended}, and none was.
-- Repeating the call makes nothing twice.
local again, caller, backlog = ARGV[5] == '1', ARGV[6], tonumber(ARGV[7])
local time = integer(now)
local known, number, at = {}, 0, 8
local place = tonumber(redis.call('HGET', TOTALS, 'submitted') or 0)  -- in the order of all submissions, over all lanes

-- The job that is there in place of this one, and its state; nothing when this is a new one, whose record is begun then.
local function found(id, once)
  if once ~= '' then
    local bucket, field = IDEMPOTENCY .. string.sub(once, 1, BUCKET), string.sub(once, BUCKET + 1)
    if redis.call('HSETNX', bucket, field, id) == 0 then
      local state = of_job(id, 'state')
      if state then return id, state end
      local other = redis.call('HGET', bucket, field)
      state = of_job(other, 'state')
      local ended = state == 'completed' or state == 'failed' or state == 'cancelled'
      if state and not (again and ended) then return other, state end
      redis.call('HSET', bucket, field, id)
    end
  end
  if redis.call('HSETNX', JOB .. id, 'state', 'queued') == 0 then return id, of_job(id, 'state') end
end

if backlog > 0 then
  local there, wanted, from = tonumber(redis.call('HGET', UNENDED, caller) or 0), 0, at
  while from <= #ARGV do
    local count = tonumber(ARGV[from + 4])
    for one = 0, count - 1 do
      if not of_job(ARGV[from + 5 + 3 * one], 'state') then wanted = wanted + 1 end
    end
    from = from + 5 + 3 * count
  end
  if wanted > 0 and there + wanted > backlog then return { 'full', there } end
end

while at <= #ARGV do
  local class, lane, batch, callback, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local made = {}
  at = at + 5
  for _ = 1, count do
    local id, once = ARGV[at], ARGV[at + 1]
    local other, state = found(id, once)
    if other then
      known[#known + 1] = number
      known[#known + 1] = other
      known[#known + 1] = state
    else
      place = place + 1
      local fields = { 'class', class, 'lane', lane, 'submitted_ms', time, 'place', place }
      if batch ~= '' then
        fields[9], fields[10] = 'batch', batch
      end
      for name, value in pairs({ once = once, caller = caller, callback = callback }) do
        if value ~= '' then
          fields[#fields + 1] = name
          fields[#fields + 1] = value
        end
      end
      redis.call('HSET', JOB .. id, unpack(add_pieces(fields, ARGV[at + 2])))
      made[#made + 1] = id
    end
    number = number + 1
    at = at + 3
  end
  if #made > 0 then
    local ids = table.concat(made, ' ')
    redis.call('XADD', SUBMITTED .. caller, '*', 'jobs', ids)
    emit(ids, 'queued', 'submitted')
    redis.call('RPUSH', WAITING .. class .. ':' .. lane .. ':' .. batch, unpack(made))
    begin_to_wait(class, lane, batch, #made)
    if batch ~= '' then
      redis.call('HSETNX', BATCH .. batch, 'submitted_ms', time)
      redis.call('HINCRBY', BATCH .. batch, 'total', #made)
      if caller ~= '' then redis.call('HSETNX', BATCH .. batch, 'caller', caller) end
      keep_batch(batch)
      local owner = redis.call('HGET', BATCH .. batch, 'caller') or ''
      redis.call('ZADD', BATCHES .. owner, time, batch)
      redis.call('ZREMRANGEBYSCORE', BATCHES .. owner, '-inf', now - BATCH_KEPT_MS)
    end
    redis.call('HINCRBY', TOTALS, 'submitted', #made)
    if caller ~= '' then
      redis.call('SADD', CALLERS, caller)
      redis.call('HINCRBY', UNENDED, caller, #made)
    end
  end
end
return known
