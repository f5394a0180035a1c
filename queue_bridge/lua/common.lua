-- What every script shares. Before this come the names of keys.py. A script's arguments begin with
--   ARGV[1] the time in ms, '' for the server's own clock      ARGV[2] about how many events are kept
--   ARGV[3] for how many ms an ended job is kept               ARGV[4] crashes after which a job is failed
-- Every state change happens here, inside one script call, together with its event.

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local EVENTS_KEPT, RETENTION_MS, CRASHES_MAX = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local BATCH_KEPT_MS = 90 * 24 * 3600 * 1000
local SPEC_MAX = 65536  -- as in job.py: more is no description of a job
local NOT_BEGUN = 'Waiting'  -- the stage of a job whose prompt has not begun yet (job_progress.py)
local STATES = { queued = 1, running = 1, retrying = 1, completed = 1, failed = 1, cancelled = 1 }
local NEXT = {  -- what a running job may become
  completed = true, failed = true, cancelled = true, retrying = true, queued = true,
}

local function integer(number) return string.format('%.0f', number) end

local function emit(id, state, cause, ...)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*',
    'job', id, 'state', state, 'cause', cause, 'at', integer(now), ...)
end

local function wake()
  redis.call('XADD', WAKE, 'MAXLEN', '~', '64', '*', 'at', integer(now))
end

local function is_record(id) return redis.call('TYPE', JOB .. id).ok == 'hash' end

-- Adds to a number of a job; one that was spoilt by hand begins again.
local function step(key, field, by, again)
  local answer = redis.pcall('HINCRBY', key, field, by)
  if type(answer) == 'number' then return answer end
  redis.call('HSET', key, field, again or by)
  return tonumber(again or by)
end

-- One line of JSON behind the others: what happened to the job, kept for people.
local function remember(key, entry)
  entry.at = now
  local lines = redis.call('HGET', key, 'history')
  redis.call('HSET', key, 'history', (lines and lines ~= '') and lines .. '\n' .. cjson.encode(entry) or cjson.encode(entry))
end

local function count_in_batch(key, state, by)
  local batch = redis.call('HGET', key, 'batch')
  if batch and batch ~= '' then
    redis.pcall('HINCRBY', BATCH .. batch, state, by)
    redis.call('PEXPIRE', BATCH .. batch, BATCH_KEPT_MS)
  end
end

local function finish(id, key, state, cause, ...)
  redis.call('HSET', key, 'state', state, 'owner', '', 'ended_ms', integer(now), 'seconds_left', '', ...)
  redis.call('ZADD', ENDED, now, id)
  redis.call('HINCRBY', TOTALS, state, 1)
  redis.call('PEXPIRE', key, RETENTION_MS)
  local idempotency = redis.call('HGET', key, 'idempotency_key')
  if idempotency and idempotency ~= '' and redis.call('GET', IDEMPOTENCY .. idempotency) == id then
    redis.call('PEXPIRE', IDEMPOTENCY .. idempotency, RETENTION_MS)
  end
  count_in_batch(key, state, 1)
  emit(id, state, cause)
end

-- Ends a job whose record somebody changed by hand, so that it holds up nobody else's.
local function refuse(id, key, why)
  local sentence = 'The record of this job in the queue is spoilt: ' .. why .. '; submit the job again.'
  finish(id, key, 'failed', 'bad input', 'error', sentence, 'error_kind', 'bad input')
end

-- What makes a record unfit for a start, in words, or nil.
local function spoilt(key)
  local names = { 'class', 'lane', 'place', 'token', 'attempt', 'failures', 'crashes', 'degradations', 'percent', 'spec' }
  for at, value in ipairs(redis.call('HMGET', key, unpack(names))) do
    local name = names[at]
    if not value then return "its field '" .. name .. "' is missing" end
    if name == 'class' then
      if value ~= 'priority' and value ~= 'pending' then return "its field 'class' is neither priority nor pending" end
    elseif name == 'lane' then
      if not string.find(value, '^%d+') then return "its field 'lane' begins with no resolution" end
    elseif name ~= 'spec' and not string.find(value, '^%-?%d+%.?%d*$') then
      return "its field '" .. name .. "' is no number"
    end
  end
  local bytes = redis.call('HSTRLEN', key, 'spec')
  if bytes > SPEC_MAX then return 'what it asks for takes ' .. integer(bytes) .. ' bytes, and ' .. SPEC_MAX .. ' are the limit' end
end

-- Back into its lane, ahead of what was never started, in the order of submission. A start whose prompt still waited for
-- its turn counts for nothing.
local function give_back(id, key, cause)
  local why = spoilt(key)
  if why then return refuse(id, key, why) end
  local class, lane, place, stage = unpack(redis.call('HMGET', key, 'class', 'lane', 'place', 'stage'))
  if stage == NOT_BEGUN then redis.call('HINCRBY', key, 'attempt', -1) end
  redis.call('HSET', key, 'state', 'queued', 'owner', '', 'stage', '')
  redis.call('ZADD', RETURNED .. class .. ':' .. lane, place, id)
  redis.call('SADD', LANES, class .. ':' .. lane)
  emit(id, 'queued', cause)
  wake()
end

-- True for a waiting job that can be started; ends one that never could.
local function startable(id)
  local key = JOB .. id
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'hash' then
    if kind ~= 'none' then emit(id, 'failed', 'bad input') end  -- no record, so nowhere else to say it
    return false
  end
  local state = redis.call('HGET', key, 'state')
  if not state or not STATES[state] then
    refuse(id, key, state and "its state '" .. string.sub(state, 1, 40) .. "' is none" or "its field 'state' is missing")
    return false
  end
  local why = state == 'queued' and spoilt(key)
  if why then refuse(id, key, why) end
  return state == 'queued' and not why
end

-- The instance that ran it is gone: another start, unless that has happened too often.
local function after_crash(id)
  local key = JOB .. id
  redis.call('ZREM', LEASES, id)
  if not is_record(id) then return end
  local state, owner, attempt, stage = unpack(redis.call('HMGET', key, 'state', 'owner', 'attempt', 'stage'))
  if state ~= 'running' then return end
  owner = owner or '?'
  if stage == NOT_BEGUN then return give_back(id, key, 'instance died') end
  local crashes = step(key, 'crashes', 1)
  local sentence = 'The instance ' .. owner .. ' died or stalled while it ran this job.'
  remember(key, { attempt = tonumber(attempt), kind = 'crash', instance = owner, error = sentence })
  if crashes >= CRASHES_MAX then
    sentence = 'The instances that ran this job died ' .. crashes .. ' times, the last one being ' .. owner ..
      '; it is not tried again by itself.'
    redis.call('ZADD', DEAD, now, id)
    finish(id, key, 'failed', 'instance died too often', 'error', sentence, 'error_kind', 'crash')
  else
    give_back(id, key, 'instance died')
  end
end

-- A server's clock that was set back would keep leases and delays for as much longer; they move back with it. One that
-- was set forward lets them end early, as a long silence of everybody would: that cannot be told apart.
local function heed_clock()
  local last = tonumber(redis.call('GET', CLOCK) or now)
  if now < last - 1000 then
    for _, set in ipairs({ LEASES, DELAYED }) do
      for _, id in ipairs(redis.call('ZRANGE', set, 0, -1)) do redis.call('ZINCRBY', set, integer(now - last), id) end
    end
  end
  if math.abs(now - last) > 1000 or redis.call('EXISTS', CLOCK) == 0 then redis.call('SET', CLOCK, integer(now)) end
end

-- What is due: retries whose time has come, jobs whose lease has run out, ended jobs that are no longer kept.
local function tend()
  heed_clock()
  local due = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now, 'LIMIT', 0, 100)
  for _, id in ipairs(due) do
    redis.call('ZREM', DELAYED, id)
    if is_record(id) and redis.call('HGET', JOB .. id, 'state') == 'retrying' then give_back(id, JOB .. id, 'due') end
  end
  local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 100)
  for _, id in ipairs(expired) do after_crash(id) end
  redis.call('ZREMRANGEBYSCORE', ENDED, '-inf', '(' .. integer(now - RETENTION_MS))
  redis.call('ZREMRANGEBYSCORE', DEAD, '-inf', '(' .. integer(now - RETENTION_MS))
  return #due + #expired
end
