-- The next job for an instance, started. ARGV[5] instance, [6] its boot id, [7] id of this claim, [8] lease in ms,
-- [9] of how many turns the pending class gets one although priority waits, [10...] the lanes it serves.
-- With a lease of 0 the job is not started but set aside: it stays queued, and other instances pass it over for as long
-- as they find something else, but at most PASSED_MAX times. Nothing has to be undone when the instance dies.
-- Answers {'job', id} | {'none', id of the last wake entry, ms until something is due or -1} | {'unregistered'}.
local instance, boot, claim_id, lease_ms, share = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local SKIP_MAX = 1000
local PASSED_MAX = 3  -- then whoever comes first takes it, so that nobody's long job holds another one up
local LOOK_AT = 32  -- returned jobs of a lane: more than there are instances that set one aside
local ahead = lease_ms == 0

if redis.call('HGET', INSTANCE .. instance, 'boot') ~= boot then return { 'unregistered' } end

local last = redis.call('HMGET', CLAIM .. instance, 'claim_id', 'job', 'token')
if last[1] == claim_id then  -- the answer was lost on its way
  local state, token = unpack(redis.call('HMGET', JOB .. (last[2] or ''), 'state', 'token'))
  if state == 'running' and token == last[3] then return { 'job', last[2] } end
end

tend()

-- The place of the first entry of a stream that was never handed out, or nil.
local function head(stream)
  if redis.call('EXISTS', stream) == 0 then return nil end
  local groups = redis.call('XINFO', 'GROUPS', stream)
  if #groups == 0 then
    redis.call('XGROUP', 'CREATE', stream, GROUP, '0')
    groups = redis.call('XINFO', 'GROUPS', stream)
  end
  for _, group in ipairs(groups) do
    local facts = {}
    for at = 1, #group, 2 do facts[group[at]] = group[at + 1] end
    if facts.name == GROUP then
      local entries = redis.call('XRANGE', stream, '(' .. facts['last-delivered-id'], '+', 'COUNT', 1)
      return entries[1] and tonumber(entries[1][2][4])
    end
  end
end

-- True for a job that another living instance has made ready to start next.
local function set_aside(id)
  local by, by_boot, passed = unpack(redis.call('HMGET', JOB .. id, 'ahead', 'ahead_boot', 'passed'))
  return by and by ~= '' and by ~= instance and (tonumber(passed) or 0) < PASSED_MAX
    and redis.call('HGET', INSTANCE .. by, 'boot') == by_boot
end

-- Takes a job out of one class, the returned ones first, else out of the lane whose next one was submitted first; what
-- others have set aside comes last.
local function take(class)
  local best, best_score, best_key
  local spare, spare_score, spare_key
  local passed = {}
  for at = 10, #ARGV do
    local key = RETURNED .. class .. ':' .. ARGV[at]
    local waiting = redis.call('ZRANGE', key, 0, LOOK_AT - 1, 'WITHSCORES')
    for place = 1, #waiting, 2 do
      local id, score = waiting[place], tonumber(waiting[place + 1])
      if not set_aside(id) then
        if not best or score < best_score then best, best_score, best_key = id, score, key end
        break
      end
      passed[#passed + 1] = { id, score }
      if not spare or score < spare_score then spare, spare_score, spare_key = id, score, key end
    end
  end
  local function pass()
    for _, one in ipairs(passed) do
      if not ahead and (not best or one[2] < best_score) then redis.call('HINCRBY', JOB .. one[1], 'passed', 1) end
    end
  end
  if best then
    pass()
    redis.call('ZREM', best_key, best)
    return best
  end
  local stream, first_place
  for at = 10, #ARGV do
    local candidate = QUEUE .. class .. ':' .. ARGV[at]
    local place = head(candidate)
    if place and (not first_place or place < first_place) then stream, first_place = candidate, place end
  end
  if not stream then
    if spare and not ahead then redis.call('ZREM', spare_key, spare) end
    return not ahead and spare or nil
  end
  pass()
  local read = redis.call('XREADGROUP', 'GROUP', GROUP, CONSUMER, 'COUNT', 1, 'STREAMS', stream, '>')
  local entry = read[1][2][1]
  redis.call('XACK', stream, GROUP, entry[1])
  redis.call('XDEL', stream, entry[1])
  return entry[2][2]
end

local function waits(class)
  for at = 10, #ARGV do
    if redis.call('ZCARD', RETURNED .. class .. ':' .. ARGV[at]) > 0 then return true end
    if head(QUEUE .. class .. ':' .. ARGV[at]) then return true end
  end
  return false
end

local order = { 'priority', 'pending' }
if waits('priority') and waits('pending') then
  local turn = ahead and (tonumber(redis.call('GET', TURNS)) or 0) + 1 or redis.call('INCR', TURNS)
  if turn % share == 0 then order = { 'pending', 'priority' } end
end

local id
for _, class in ipairs(order) do
  for _ = 1, SKIP_MAX do
    id = take(class)
    -- A job that was cancelled or forgotten meanwhile is passed over; its place is gone with it.
    if not id or startable(id) then break end
    id = nil
  end
  if id then break end
end

if not id then
  local wake_id = '0-0'
  if redis.call('EXISTS', WAKE) == 1 then
    local facts = redis.call('XINFO', 'STREAM', WAKE)
    for at = 1, #facts, 2 do
      if facts[at] == 'last-generated-id' then wake_id = facts[at + 1] end
    end
  end
  local due = -1
  for _, set in ipairs({ DELAYED, LEASES }) do
    local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
    if first then
      local left = math.max(0, tonumber(first) - now)
      if due < 0 or left < due then due = left end
    end
  end
  return { 'none', wake_id, due }
end

local key = JOB .. id
if ahead then
  local class, lane, place = unpack(redis.call('HMGET', key, 'class', 'lane', 'place'))
  redis.call('ZADD', RETURNED .. class .. ':' .. lane, place, id)
  local before = redis.call('HGET', CLAIM .. instance, 'ahead')
  if before and before ~= id and redis.call('HGET', JOB .. before, 'ahead') == instance then
    redis.call('HDEL', JOB .. before, 'ahead')
  end
  local by, by_boot = unpack(redis.call('HMGET', key, 'ahead', 'ahead_boot'))
  if by ~= instance or by_boot ~= boot then
    redis.call('HSET', key, 'ahead', instance, 'ahead_boot', boot, 'passed', 0)
    redis.call('HSET', CLAIM .. instance, 'ahead', id)
    redis.call('PEXPIRE', CLAIM .. instance, RETENTION_MS)
  end
  return { 'job', id }
end
redis.call('HDEL', key, 'ahead', 'ahead_boot', 'passed')
local token = step(key, 'token', 1, integer(now))
local attempt = step(key, 'attempt', 1)
redis.call('HSET', key, 'state', 'running', 'owner', instance, 'boot', boot, 'started_ms', integer(now), 'stage', '')
redis.call('ZADD', LEASES, now + lease_ms, id)
redis.call('HSET', CLAIM .. instance, 'claim_id', claim_id, 'job', id, 'token', token)
redis.call('PEXPIRE', CLAIM .. instance, RETENTION_MS)
emit(id, 'running', 'claimed', 'instance', instance, 'attempt', attempt, 'token', token)
return { 'job', id }
