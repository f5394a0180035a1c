-- The next job for an instance, started. ARGV[5] instance, [6] its boot id, [7] id of this claim, [8] lease in ms,
-- [9] of how many turns the pending class gets one although priority waits, [10...] the lanes it serves.
-- Answers {'job', id, its fields and values} | {'none', id of the last wake entry, ms until something is due or -1} |
-- {'unregistered'}.
local instance, boot, claim_id, lease_ms, share = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local SKIP_MAX = 1000  -- cancelled jobs that one call passes over

if redis.call('HGET', INSTANCE .. instance, 'boot') ~= boot then return { 'unregistered' } end

local last_id, last_job, last_token = string.match(redis.call('GET', CLAIM .. instance) or '', '^(%S+) (%S+) (%d+)$')
if last_id == claim_id then  -- the answer was lost on its way
  local state, token = unpack(redis.call('HMGET', JOB .. last_job, 'state', 'token'))
  if state == 'running' and token == last_token then
    return { 'job', last_job, redis.call('HGETALL', JOB .. last_job) }
  end
end

tend()

local passed = 0

local flows_of = { priority = {}, pending = {} }
for at = 10, #ARGV do
  for class, flows in pairs(flows_of) do flows[#flows + 1] = FLOWS .. class .. ':' .. ARGV[at] end
end

-- The lane and the batch whose turn it is, of all that wait in one class.
local function next_flow(class)
  local lane, batch, turn
  for number, flows in ipairs(flows_of[class]) do
    local first = redis.call('ZRANGE', flows, 0, 0, 'WITHSCORES')
    if first[1] and (not turn or tonumber(first[2]) < turn) then
      lane, batch, turn = ARGV[9 + number], first[1], tonumber(first[2])
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
    local fields, job = id and redis.call('HGETALL', JOB .. id) or {}, {}
    for at = 1, #fields, 2 do job[fields[at]] = fields[at + 1] end
    local ours = job.state == 'queued' and job.class == class and job.lane == lane
    if ours then end_to_wait(class, lane) end
    if redis.call('EXISTS', RETURNED .. flow, WAITING .. flow) == 0 then
      redis.call('ZREM', flows, batch)
      count_none(class, lane)
    elseif ours then
      redis.call('ZADD', flows, redis.call('INCR', TURN), batch)
    end
    if ours then return id, job, fields end
    passed = passed + 1  -- cancelled meanwhile, or put back elsewhere: its batch keeps its turn
  end
end

local order = {}
local drained = redis.call('HEXISTS', DRAINING, instance) == 1  -- it finishes what it has and takes nothing new
for _, class in ipairs({ 'priority', 'pending' }) do
  if not drained and redis.call('EXISTS', unpack(flows_of[class])) > 0 then order[#order + 1] = class end
end
if #order == 2 and redis.call('INCR', TURNS) % share == 0 then order = { 'pending', 'priority' } end

local id, job, fields
for _, class in ipairs(order) do
  id, job, fields = take(class)
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
local token, attempt = integer((job.token or 0) + 1), integer((job.attempt or 0) + 1)
local started = { 'state', 'running', 'token', token, 'attempt', attempt, 'owner', instance, 'boot', boot,
  'started_ms', integer(now) }
redis.call('HSET', key, unpack(started))
redis.call('ZADD', LEASES, now + lease_ms, id)
redis.call('SET', CLAIM .. instance, claim_id .. ' ' .. id .. ' ' .. token, 'PX', integer(RETENTION_MS))
emit(id, 'running', 'claimed', 'instance', instance, 'attempt', attempt, 'token', token)
for _, value in ipairs(started) do fields[#fields + 1] = value end  -- the last value of a field counts
return { 'job', id, fields }
