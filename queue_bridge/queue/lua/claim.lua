-- The next job for an instance, started. ARGV[5] instance, [6] its boot id, [7] id of this claim, [8] lease in ms,
-- [9] of how many turns the pending class gets one although priority waits, [10] for how many ms the instance will wait
-- to be handed the next job (common.lua) when there is none, or 0, [11...] the lanes it serves.
-- With a lease of 0 the job is not started but set aside: it stays queued, and other instances pass it over for as long
-- as they find something else, but at most PASSED_MAX times. What was set aside before is let go. Nothing has to be
-- undone when the instance dies.
-- Answers {'job', id, its fields and values} | {'none', id of the last wake entry, ms until something is due or -1} |
-- {'unregistered'}.
local instance, boot, claim_id, lease_ms, share = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local SKIP_MAX = 1000  -- spoilt records that one call passes over
local PASSED_MAX = 3  -- then whoever comes first takes it, so that nobody's long job holds another one up
local LOOK_AT = 32  -- returned jobs of a batch: more than there are instances that set one aside
local ahead = lease_ms == 0

local known_boot, mine = unpack(redis.call('HMGET', INSTANCE .. instance, 'boot', 'ahead'))
if known_boot ~= boot then return { 'unregistered' } end

local last = redis.call('GET', CLAIM .. instance) or ''
if string.find(last, AWAITS) then redis.call('DEL', CLAIM .. instance) end
local last_id, last_job, last_token = string.match(last, '^(%S+) (%S+) (%d+)$')
if last_id == claim_id then  -- the answer was lost on its way
  local state, token = of_job(last_job, 'state', 'token')
  if state == 'running' and token == last_token then
    return { 'job', last_job, redis.call('HGETALL', JOB .. last_job) }
  end
end

tend()

local skipped = 0

local flows_of, serves = { priority = {}, pending = {} }, {}
for at = 11, #ARGV do
  serves[ARGV[at]] = true
  for class, flows in pairs(flows_of) do flows[#flows + 1] = FLOWS .. class .. ':' .. ARGV[at] end
end

-- Goes through the lanes and batches of which jobs wait in one class, by whose turn it is.
local function by_turn(class)
  local places, firsts = {}, {}
  for number in ipairs(flows_of[class]) do places[number] = 0 end
  return function()
    local best
    for number, flows in ipairs(flows_of[class]) do
      if not firsts[number] then firsts[number] = redis.call('ZRANGE', flows, places[number], places[number], 'WITHSCORES') end
      local turn = tonumber(firsts[number][2])
      if turn and (not best or turn < tonumber(firsts[best][2])) then best = number end
    end
    if not best then return nil end
    local batch = firsts[best][1]
    places[best], firsts[best] = places[best] + 1, nil
    return ARGV[10 + best], batch
  end
end

-- A lane in which nothing waits says so, whatever somebody has deleted by hand.
local function count_none(class, lane)
  if redis.call('EXISTS', FLOWS .. class .. ':' .. lane) == 1 then return end
  for _ = 1, math.min(redis.call('XLEN', QUEUE .. class .. ':' .. lane), SKIP_MAX) do end_to_wait(class, lane) end
end

-- True for a job that another living instance, which may take jobs, has made ready to start next.
local function set_aside(id)
  local by, by_boot, passed = of_job(id, 'ahead', 'ahead_boot', 'passed')
  return by and by ~= instance and (tonumber(passed) or 0) < PASSED_MAX
    and redis.call('HGET', INSTANCE .. by, 'boot') == by_boot and redis.call('HEXISTS', DRAINING, by) == 0
end

-- Takes the first job out of a batch that nobody has set aside; those before it go into the list passed.
local function pop(class, lane, batch, passed)
  local flow = flow_of(class, lane, batch)
  for _, id in ipairs(redis.call('ZRANGE', RETURNED .. flow, 0, LOOK_AT - 1)) do
    if not set_aside(id) then
      redis.call('ZREM', RETURNED .. flow, id)
      return id
    end
    passed[#passed + 1] = { id, lane, batch }
  end
  return redis.call('LPOP', WAITING .. flow) or nil
end

-- What this instance has set aside itself, when it still waits in this class.
local function pop_mine(class)
  if not mine then return nil end
  local state, by, by_boot, its_class, lane, batch = of_job(mine, 'state', 'ahead', 'ahead_boot', 'class', 'lane', 'batch')
  local ours = state == 'queued' and by == instance and by_boot == boot and its_class == class and serves[lane]
  if not ours or redis.call('ZREM', RETURNED .. flow_of(class, lane, batch or ''), mine) == 0 then return nil end
  return mine, lane, batch or ''
end

-- Takes the next job out of one class, with where it stood: batches take turns, and within a batch those that came back
-- are first. What others have set aside comes last of all.
local function pop_next(class)
  local id, lane, batch = pop_mine(class)
  if id then return id, lane, batch end
  local passed, gone = {}, false
  for one_lane, one_batch in by_turn(class) do
    local before = #passed
    id, lane, batch = pop(class, one_lane, one_batch, passed), one_lane, one_batch
    gone = not id and #passed == before  -- somebody has deleted what waited
    if id or gone then break end
  end
  if gone then return nil, lane, batch end
  if id then
    for _, one in ipairs(passed) do
      if not ahead then step(JOB .. one[1], 'passed') end
    end
    return id, lane, batch
  end
  if ahead or not passed[1] then return nil end
  id, lane, batch = unpack(passed[1])
  redis.call('ZREM', RETURNED .. flow_of(class, lane, batch), id)
  return id, lane, batch
end

-- The same for one that can be started; one that never could is ended on the way.
local function take(class)
  while skipped < SKIP_MAX do
    local id, lane, batch = pop_next(class)
    if not lane then return nil end
    local fields, job
    if id then fields, job = read_job(id) end
    local why = job and #fields > 0 and (job.state == 'queued' or not STATES[job.state or '']) and spoilt(job)
    local fit = job and job.state == 'queued' and not why
    local ours = fit and job.class == class and job.lane == lane
    if ours and ahead then
      redis.call('ZADD', RETURNED .. flow_of(class, lane, batch), job.place, id)
    elseif id then
      end_to_wait(class, lane)
    end
    if drop_empty_flow(class, lane, batch) then
      count_none(class, lane)
    elseif ours and not job.ahead then  -- the turn was taken when it was set aside
      redis.call('ZADD', FLOWS .. class .. ':' .. lane, redis.call('INCR', TURN), batch)
    end
    if ours then return id, job, fields end
    if id and not job then
      emit(id, 'failed', 'bad input')  -- no record, so nowhere else to say it
    elseif why then
      refuse(id, JOB .. id, why)
    elseif fit then
      wait_again(id, job)  -- moved by hand
    end
    skipped = skipped + 1
  end
end

-- The instance sleeps now, and may be handed a job of any of its lanes until it asks again.
local function await_job()
  local till = integer(now + ARGV[10])
  local awaits = table.concat({ claim_id, '*', boot, ARGV[8], till, unpack(ARGV, 11) }, ' ') .. ' '
  redis.call('DEL', HANDED .. instance)
  redis.call('SET', CLAIM .. instance, awaits, 'PX', integer(RETENTION_MS))
  for at = 11, #ARGV do redis.call('ZADD', AWAITING .. ARGV[at], now, instance) end
end

local order = {}
local drained = redis.call('HEXISTS', DRAINING, instance) == 1  -- it finishes what it has and takes nothing new
for _, class in ipairs({ 'priority', 'pending' }) do
  if not drained and #ARGV > 10 and redis.call('EXISTS', unpack(flows_of[class])) > 0 then order[#order + 1] = class end
end
if #order == 2 then
  local turn = ahead and (tonumber(redis.call('GET', TURNS)) or 0) + 1 or redis.call('INCR', TURNS)
  if turn % share == 0 then order = { 'pending', 'priority' } end
end

local id, job, fields
for _, class in ipairs(order) do
  id, job, fields = take(class)
  if id then break end
end

if ahead then
  if mine and mine ~= id then
    if of_job(mine, 'ahead') == instance then redis.call('HDEL', JOB .. mine, 'ahead', 'ahead_boot', 'passed') end
    redis.call('HDEL', INSTANCE .. instance, 'ahead')
  end
  if not id then return { 'none', '0-0', -1 } end
  if job.ahead ~= instance or job.ahead_boot ~= boot then
    redis.call('HSET', JOB .. id, 'ahead', instance, 'ahead_boot', boot, 'passed', 0)
    redis.call('HSET', INSTANCE .. instance, 'ahead', id)
  end
  return { 'job', id, fields }
end

if not id then
  local wake_id = '0-0'
  if redis.call('EXISTS', WAKE) == 1 then
    local facts = redis.call('XINFO', 'STREAM', WAKE)
    for at = 1, #facts, 2 do
      if facts[at] == 'last-generated-id' then wake_id = facts[at + 1] end
    end
  end
  local due = skipped < SKIP_MAX and -1 or 0  -- or go on at once
  for _, set in ipairs({ DELAYED, LEASES }) do
    local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
    if first and due ~= 0 then
      local left = math.max(0, tonumber(first) - now)
      if due < 0 or left < due then due = left end
    end
  end
  if ARGV[10] ~= '0' and not drained and skipped < SKIP_MAX then await_job() end
  return { 'none', wake_id, due }
end

local started = start(id, job, instance, boot, claim_id, lease_ms)
redis.call('HSET', JOB .. id, unpack(started))
if job.ahead then
  redis.call('HDEL', JOB .. id, 'ahead', 'ahead_boot', 'passed')
  if mine == id then redis.call('HDEL', INSTANCE .. instance, 'ahead') end
end
for _, value in ipairs(started) do fields[#fields + 1] = value end  -- the last value of a field counts
return { 'job', id, fields }
