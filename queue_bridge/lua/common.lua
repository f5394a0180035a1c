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
local BATCH_KEPT_MS = math.max(90 * 24 * 3600 * 1000, RETENTION_MS)
local FORGOTTEN_A_CALL = 500  -- of each set, so that no call takes long
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

-- One line of JSON behind the others: what happened to the job, kept for people.
local function remember(key, entry)
  entry.at = now
  local lines = redis.call('HGET', key, 'history')
  redis.call('HSET', key, 'history', (lines and lines ~= '') and lines .. '\n' .. cjson.encode(entry) or cjson.encode(entry))
end

local function count_in_batch(key, state, step)
  local batch = redis.call('HGET', key, 'batch')
  if batch and batch ~= '' then
    redis.call('HINCRBY', BATCH .. batch, state, step)
    redis.call('PEXPIRE', BATCH .. batch, BATCH_KEPT_MS)
  end
end

-- Back into its lane, ahead of what was never started, in the order of submission.
local function give_back(id, key, cause)
  local class, lane, place = unpack(redis.call('HMGET', key, 'class', 'lane', 'place'))
  redis.call('HSET', key, 'state', 'queued', 'owner', '', 'stage', '')
  redis.call('ZADD', RETURNED .. class .. ':' .. lane, place, id)
  redis.call('SADD', LANES, class .. ':' .. lane)
  emit(id, 'queued', cause)
  wake()
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

-- A running job that an operator has cancelled; its owner says so, or is gone.
local function finish_cancelled(id, key)
  redis.call('HDEL', key, 'cancel_ms')
  finish(id, key, 'cancelled', 'cancelled', 'stage', '')
end

-- The instance that ran it is gone: another start, unless that has happened too often or nobody wants it any more.
local function after_crash(id)
  local key = JOB .. id
  redis.call('ZREM', LEASES, id)
  local state, owner, attempt, cancel = unpack(redis.call('HMGET', key, 'state', 'owner', 'attempt', 'cancel_ms'))
  if state ~= 'running' then return end
  if cancel then return finish_cancelled(id, key) end
  local crashes = redis.call('HINCRBY', key, 'crashes', 1)
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

-- Until when no lease runs out, in ms: after the server has been away, or everybody was cut off from it, those who could
-- not renew have one lease's time to come back. INFO is refused to some users, who get no such time.
local function spared_until()
  local known, lease_ms, till = unpack(redis.call('HMGET', GRACE, 'server', 'lease_ms', 'until'))
  local info = redis.pcall('INFO', 'server')
  local server = type(info) == 'string' and string.match(info, 'run_id:(%w+)')
  if server and server ~= known then
    redis.call('HSET', GRACE, 'server', server)
    if known and lease_ms then
      till = now + tonumber(lease_ms)
      redis.call('HSET', GRACE, 'until', integer(till))
    end
  end
  return tonumber(till) or 0
end

-- What the processes of an instance ran has died with them. boot: of the process that has died; or, with but, of the
-- one that has not. Answers how many jobs that were.
local function bury(name, boot, but)
  local freed = 0
  for _, id in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
    local owner, owner_boot = unpack(redis.call('HMGET', JOB .. id, 'owner', 'boot'))
    if owner == name and (owner_boot == boot) ~= (but or false) then
      after_crash(id)
      freed = freed + 1
    end
  end
  return freed
end

local function forget_instance(name)
  redis.call('DEL', INSTANCE .. name, CLAIM .. name)
  redis.call('SREM', INSTANCES, name)
end

-- What is due: retries whose time has come, jobs whose lease has run out, ended jobs that are no longer kept.
local function tend()
  local due = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now, 'LIMIT', 0, 100)
  for _, id in ipairs(due) do
    redis.call('ZREM', DELAYED, id)
    if redis.call('HGET', JOB .. id, 'state') == 'retrying' then give_back(id, JOB .. id, 'due') end
  end
  local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 100)
  local till = #expired > 0 and spared_until() or 0
  for _, id in ipairs(expired) do
    if now < till then redis.call('ZADD', LEASES, 'XX', till, id) else after_crash(id) end
  end
  for _, set in ipairs({ ENDED, DEAD }) do
    local old = redis.call('ZCOUNT', set, '-inf', '(' .. integer(now - RETENTION_MS))
    if old > 0 then redis.call('ZREMRANGEBYRANK', set, 0, math.min(old, FORGOTTEN_A_CALL) - 1) end
  end
  return #due + #expired
end
