-- The next job for an instance, started. ARGV[5] instance, [6] its boot id, [7] id of this claim, [8] lease in ms,
-- [9] of how many turns the pending class gets one although priority waits, [10...] the lanes it serves.
-- Answers {'job', id} | {'none', id of the last wake entry, ms until something is due or -1} | {'unregistered'}.
local instance, boot, claim_id, lease_ms, share = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local SKIP_MAX = 1000

if redis.call('HGET', INSTANCE .. instance, 'boot') ~= boot then return { 'unregistered' } end

local last = redis.call('HMGET', CLAIM .. instance, 'claim_id', 'job', 'token')
if last[1] == claim_id then  -- the answer was lost on its way
  local state, token = unpack(redis.call('HMGET', JOB .. last[2], 'state', 'token'))
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

-- Takes a job out of one class, the returned ones first, else out of the lane whose next one was submitted first.
local function take(class)
  local best, best_score, best_key
  for at = 10, #ARGV do
    local key = RETURNED .. class .. ':' .. ARGV[at]
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if first[1] and (not best or tonumber(first[2]) < best_score) then
      best, best_score, best_key = first[1], tonumber(first[2]), key
    end
  end
  if best then
    redis.call('ZREM', best_key, best)
    return best
  end
  local stream, first_place
  for at = 10, #ARGV do
    local candidate = QUEUE .. class .. ':' .. ARGV[at]
    local place = head(candidate)
    if place and (not first_place or place < first_place) then stream, first_place = candidate, place end
  end
  if not stream then return nil end
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
  if redis.call('INCR', TURNS) % share == 0 then order = { 'pending', 'priority' } end
end
if redis.call('HEXISTS', DRAINING, instance) == 1 then order = {} end  -- it finishes what it has and takes nothing new

local id
for _, class in ipairs(order) do
  for _ = 1, SKIP_MAX do
    id = take(class)
    -- A job that was cancelled or forgotten meanwhile is passed over; its place is gone with it.
    if not id or redis.call('HGET', JOB .. id, 'state') == 'queued' then break end
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
local token = redis.call('HINCRBY', key, 'token', 1)
local attempt = redis.call('HINCRBY', key, 'attempt', 1)
redis.call('HSET', key, 'state', 'running', 'owner', instance, 'boot', boot, 'started_ms', integer(now), 'stage', '',
  'entry', '')
redis.call('ZADD', LEASES, now + lease_ms, id)
redis.call('HSET', CLAIM .. instance, 'claim_id', claim_id, 'job', id, 'token', token)
redis.call('PEXPIRE', CLAIM .. instance, RETENTION_MS)
emit(id, 'running', 'claimed', 'instance', instance, 'attempt', attempt, 'token', token)
return { 'job', id }
