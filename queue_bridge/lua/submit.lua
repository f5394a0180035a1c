-- Jobs into their lanes. ARGV[5] 1 to make a job anew where the same one has ended; then for each run of jobs that
-- belong together: class, lane, batch or '', callback or '', how many; and for each of them id, short idempotency key
-- or '', what it asks for (packed). Answers {number, id, state} in a row for each job that was there before; all others were made.
-- Repeating the call makes nothing twice.
local again = ARGV[5] == '1'
local time = integer(now)
local known, number, at = {}, 0, 6
local place = tonumber(redis.call('HGET', TOTALS, 'submitted') or 0)  -- in the order of all submissions, over all lanes

-- The job that is there in place of this one, and its state; nothing when this is a new one.
local function found(id, once)
  local state = of_job(id, 'state')
  if state then return id, state end
  if once == '' then return end
  local bucket, field = IDEMPOTENCY .. string.sub(once, 1, BUCKET), string.sub(once, BUCKET + 1)
  if redis.call('HSETNX', bucket, field, id) == 1 then return end
  local other = redis.call('HGET', bucket, field)
  state = of_job(other, 'state')
  local ended = state == 'completed' or state == 'failed' or state == 'cancelled'
  if other == id or not state or (again and ended) then
    redis.call('HSET', bucket, field, id)
    return
  end
  return other, state
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
      local fields = { 'state', 'queued', 'class', class, 'lane', lane, 'submitted_ms', time, 'place', place }
      if batch ~= '' then
        fields[11], fields[12] = 'batch', batch
      end
      if once ~= '' then
        fields[#fields + 1] = 'once'
        fields[#fields + 1] = once
      end
      if callback ~= '' then
        fields[#fields + 1] = 'callback'
        fields[#fields + 1] = callback
      end
      redis.call('HSET', JOB .. id, unpack(add_pieces(fields, ARGV[at + 2])))
      emit(id, 'queued', 'submitted')
      made[#made + 1] = id
    end
    number = number + 1
    at = at + 3
  end
  if #made > 0 then
    redis.call('RPUSH', WAITING .. class .. ':' .. lane .. ':' .. batch, unpack(made))
    begin_to_wait(class, lane, batch, #made)
    if batch ~= '' then
      redis.call('HSETNX', BATCH .. batch, 'submitted_ms', time)
      redis.call('HINCRBY', BATCH .. batch, 'total', #made)
      keep_batch(batch)
    end
    redis.call('HINCRBY', TOTALS, 'submitted', #made)
  end
end
return known
