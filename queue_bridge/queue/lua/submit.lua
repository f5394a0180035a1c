-- Jobs into their lanes. ARGV[5] 1 to make a job anew where the same one has ended, [6] who submits or '', [7] how many
-- jobs of that caller may not have ended or 0; then for each run of jobs that belong together: class, lane, batch or '',
-- callback or '', how many; and for each of them id, short idempotency key or '', what it asks for (packed). Answers
-- {number, id, state} in a row for each job that was there before; all others were made. Or {'full', how many have not
-- ended}, and none was.
-- Repeating the call makes nothing twice.
local again, caller, backlog = ARGV[5] == '1', ARGV[6], tonumber(ARGV[7])
local time = integer(now)
local known, number, at = {}, 0, 8
local new = {}  -- jobs of this call whose records are still to be written

local function state_of(id) return new[id] and 'queued' or of_job(id, 'state') end

-- The job that is there in place of this one, and its state; nothing when this is a new one.
local function found(id, once)
  if once ~= '' then
    local bucket, field = IDEMPOTENCY .. string.sub(once, 1, BUCKET), string.sub(once, BUCKET + 1)
    if redis.call('HSETNX', bucket, field, id) == 0 then
      local state = state_of(id)
      if state then return id, state end
      local other = redis.call('HGET', bucket, field)
      state = state_of(other)
      local ended = state == 'completed' or state == 'failed' or state == 'cancelled'
      if state and not (again and ended) then return other, state end
      redis.call('HSET', bucket, field, id)
    end
  end
  if new[id] or redis.call('EXISTS', JOB .. id) == 1 then return id, state_of(id) end
  new[id] = true
end

local function add_said(fields, name, value)
  if value == '' then return end
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end

-- One entry for jobs that were submitted together. How all their ids begin is said once.
local function remember_submitted(made, ids)
  if not made[2] then return redis.call('XADD', SUBMITTED .. caller, '*', 'jobs', ids) end
  local begin = made[1]
  for _, id in ipairs(made) do
    while #id <= #begin or string.sub(id, 1, #begin) ~= begin do begin = string.sub(begin, 1, -2) end
  end
  local rests = {}
  for number, id in ipairs(made) do rests[number] = string.sub(id, #begin + 1) end
  redis.call('XADD', SUBMITTED .. caller, '*', 'jobs', table.concat(rests, ' '), 'begin', begin)
end

-- So many jobs more in a batch. It moves up in its owner's list once a minute, and once a minute it is kept for longer.
local function add_to_batch(batch, count)
  local key = BATCH .. batch
  local is_new = redis.call('HINCRBY', key, 'total', count) == count
  if not is_new and redis.call('PTTL', key) > BATCH_KEPT_MS - 60000 then return end
  if is_new then redis.call('HSET', key, 'submitted_ms', time) end
  if is_new and caller ~= '' then redis.call('HSET', key, 'caller', caller) end
  redis.call('PEXPIRE', key, BATCH_KEPT_MS)
  local owner = redis.call('HGET', key, 'caller') or ''
  redis.call('ZADD', BATCHES .. owner, time, batch)
  redis.call('ZREMRANGEBYSCORE', BATCHES .. owner, '-inf', now - BATCH_KEPT_MS)
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
  local made, said, asked, keys = {}, {}, {}, {}
  local place = redis.call('HINCRBY', TOTALS, 'submitted', count) - count  -- in the order of all submissions, over all lanes
  at = at + 5
  for _ = 1, count do
    local id, once = ARGV[at], ARGV[at + 1]
    local other, state = found(id, once)
    if other then
      known[#known + 1] = number
      known[#known + 1] = other
      known[#known + 1] = state
    else
      local fields = { 'class', class, 'lane', lane, 'submitted_ms', time }
      add_said(fields, 'batch', batch)
      add_said(fields, 'caller', caller)
      add_said(fields, 'callback', callback)
      made[#made + 1], said[#made + 1], asked[#made + 1], keys[#made + 1] = id, fields, ARGV[at + 2], once
    end
    number = number + 1
    at = at + 3
  end
  if #made < count then redis.call('HINCRBY', TOTALS, 'submitted', #made - count) end
  if #made > 0 then
    local ids = table.concat(made, ' ')
    remember_submitted(made, ids)
    emit(ids, 'queued', 'submitted')
    local handed = hand_over(class, lane, made, said, asked)
    for one, id in ipairs(made) do
      local record = said[one]
      if one > handed then add_said(record, 'state', 'queued') end
      add_said(record, 'place', place + one)
      add_said(record, 'once', keys[one])
      redis.call('HSET', JOB .. id, unpack(add_pieces(record, asked[one])))
    end
    if handed < #made then
      redis.call('RPUSH', WAITING .. class .. ':' .. lane .. ':' .. batch, unpack(made, handed + 1))
      begin_to_wait(class, lane, batch, #made - handed)
    end
    if batch ~= '' then add_to_batch(batch, #made) end
    if caller ~= '' then
      redis.call('SADD', CALLERS, caller)
      redis.call('HINCRBY', UNENDED, caller, #made)
    end
  end
end
return known
