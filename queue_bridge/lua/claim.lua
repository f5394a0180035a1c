-- The next job for an instance, started. ARGV[5] instance, [6] its boot id, [7] id of this claim, [8] lease in ms,
-- [9] of how many turns the pending class gets one although priority waits, [10...] the lanes it serves.
-- Answers {'job', id, its fields and values} | {'none', id of the last wake entry, ms until something is due or -1} |
-- {'unregistered'}.
local instance, boot, claim_id, lease_ms, share = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local SKIP_MAX = 1000  -- cancelled jobs that one call passes over

if redis.call('HGET', INSTANCE .. instance, 'boot') ~= boot then return { 'unregistered' } end

local last = redis.call('HMGET', CLAIM .. instance, 'claim_id', 'job', 'token')
if last[1] == claim_id then  -- the answer was lost on its way
  local state, token = unpack(redis.call('HMGET', JOB .. last[2], 'state', 'token'))
  if state == 'running' and token == last[3] then return { 'job', last[2], redis.call('HGETALL', JOB .. last[2]) } end
end

tend()

local passed = 0

-- The lane and the batch whose turn it is, of all that wait in one class.
local function next_flow(class)
  local lane, batch, turn
  for at = 10, #ARGV do
    local first = redis.call('ZRANGE', FLOWS .. class .. ':' .. ARGV[at], 0, 0, 'WITHSCORES')
    if first[1] and (not turn or tonumber(first[2]) < turn) then
      lane, batch, turn = ARGV[at], first[1], tonumber(first[2])
    end
  end
  return lane, batch
end

-- A lane in which nothing waits says so, whatever somebody has deleted by hand.
local function count_none(class, lane)
  if redis.call('EXISTS', FLOWS .. class .. ':' .. lane) == 1 then return end
  for _ = 1, math.min(redis.call('XLEN', QUEUE .. class .. ':' .. lane), SKIP_MAX) do end_to_wait(class, lane) end
end

-- Takes a job out of one class: batches take turns, and within a batch those that came back are first.
local function take(class)
  while passed < SKIP_MAX do
    local lane, batch = next_flow(class)
    if not lane then return nil end
    local flows, flow = FLOWS .. class .. ':' .. lane, class .. ':' .. lane .. ':' .. batch
    local id = redis.call('ZPOPMIN', RETURNED .. flow)[1] or redis.call('LPOP', WAITING .. flow)
    local state, its_class, its_lane
    if id then state, its_class, its_lane = unpack(redis.call('HMGET', JOB .. id, 'state', 'class', 'lane')) end
    local ours = state == 'queued' and its_class == class and its_lane == lane
    if ours then end_to_wait(class, lane) end
    if redis.call('EXISTS', RETURNED .. flow, WAITING .. flow) == 0 then
      redis.call('ZREM', flows, batch)
      count_none(class, lane)
    elseif ours then
      redis.call('ZADD', flows, redis.call('INCR', TURN), batch)
    end
    if ours then return id end
    passed = passed + 1  -- cancelled meanwhile, or put back elsewhere: its batch keeps its turn
  end
end

local function waits(class)
  for at = 10, #ARGV do
    if redis.call('EXISTS', FLOWS .. class .. ':' .. ARGV[at]) == 1 then return true end
  end
  return false
end

local order = { 'priority', 'pending' }
if waits('priority') and waits('pending') then
  if redis.call('INCR', TURNS) % share == 0 then order = { 'pending', 'priority' } end
end

local id
for _, class in ipairs(order) do
  id = take(class)
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
  local due = passed < SKIP_MAX and -1 or 0  -- or go on at once
  for _, set in ipairs({ DELAYED, LEASES }) do
    local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
    if first and due ~= 0 then
      local left = math.max(0, tonumber(first) - now)
      if due < 0 or left < due then due = left end
    end
  end
  return { 'none', wake_id, due }
end

local key = JOB .. id
local token = redis.call('HINCRBY', key, 'token', 1)
local attempt = redis.call('HINCRBY', key, 'attempt', 1)
redis.call('HSET', key, 'state', 'running', 'owner', instance, 'boot', boot, 'started_ms', integer(now))
redis.call('ZADD', LEASES, now + lease_ms, id)
redis.call('HSET', CLAIM .. instance, 'claim_id', claim_id, 'job', id, 'token', token)
redis.call('PEXPIRE', CLAIM .. instance, RETENTION_MS)
emit(id, 'running', 'claimed', 'instance', instance, 'attempt', attempt, 'token', token)
return { 'job', id, redis.call('HGETALL', key) }
