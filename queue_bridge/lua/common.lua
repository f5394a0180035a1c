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
local NEXT = {  -- what a running job may become
  completed = true, failed = true, cancelled = true, retrying = true, queued = true,
}

local function integer(number) return string.format('%.0f', number) end

-- A hash stays a compact one while no value is longer than 64 bytes (hash-max-listpack-value), so long texts are cut.
local PIECE = 63

-- The fields 0, 1, ... and the values that hold a text, behind what is in the list already.
local function add_pieces(list, text)
  local size = math.max(PIECE, math.ceil(#text / 100))
  local number = 0
  for at = 1, #text, size do
    list[#list + 1] = number
    list[#list + 1] = string.sub(text, at, at + size - 1)
    number = number + 1
  end
  return list
end

local function emit(id, state, cause, ...)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*',
    'job', id, 'state', state, 'cause', cause, 'at', integer(now), ...)
end

local function keep_batch(batch)
  local key = BATCH .. batch
  if redis.call('PTTL', key) < BATCH_KEPT_MS / 2 then redis.call('PEXPIRE', key, BATCH_KEPT_MS) end
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
  if batch then redis.call('HINCRBY', BATCH .. batch, state, step) end
end

-- As many entries into a lane's stream as jobs begin to wait in it, whichever they are: their number is what counts.
-- The batch takes its turn behind those that wait already. Whoever sleeps has seen the lane empty, so only the first
-- that waits wakes anybody.
local function begin_to_wait(class, lane, batch, count)
  local stream = QUEUE .. class .. ':' .. lane
  if redis.call('SADD', LANES, class .. ':' .. lane) == 1 then
    redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  end
  for _ = 1, count do redis.call('XADD', stream, '*', 'waits', 1) end
  local flows = FLOWS .. class .. ':' .. lane
  if redis.call('ZSCORE', flows, batch) then return end
  redis.call('ZADD', flows, redis.call('INCR', TURN), batch)
  if redis.call('ZCARD', flows) == 1 then wake() end
end

-- One entry less, read and deleted in order, so that the lag of the group stays true.
local function end_to_wait(class, lane)
  local stream = QUEUE .. class .. ':' .. lane
  local read = redis.pcall('XREADGROUP', 'GROUP', GROUP, CONSUMER, 'COUNT', 1, 'NOACK', 'STREAMS', stream, '>')
  if read and read.err then  -- the group is gone, or the stream
    redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
    read = redis.call('XREADGROUP', 'GROUP', GROUP, CONSUMER, 'COUNT', 1, 'NOACK', 'STREAMS', stream, '>')
  end
  if read then redis.call('XDEL', stream, read[1][2][1][1]) end
end

-- Back into its lane, ahead of what its batch has never started, in the order of submission.
local function give_back(id, key, cause)
  local class, lane, batch, place = unpack(redis.call('HMGET', key, 'class', 'lane', 'batch', 'place'))
  batch = batch or ''
  redis.call('HSET', key, 'state', 'queued', 'owner', '', 'stage', '')
  redis.call('ZADD', RETURNED .. class .. ':' .. lane .. ':' .. batch, place or 0, id)
  begin_to_wait(class, lane, batch, 1)
  emit(id, 'queued', cause)
end

local function count_end(id, state, cause, batch)
  redis.call('RPUSH', ENDED, integer(now) .. ' ' .. id)
  redis.call('HINCRBY', TOTALS, state, 1)
  if batch then redis.call('HINCRBY', BATCH .. batch, state, 1) end
  emit(id, state, cause)
end

-- The end of a job that has not completed, wherever it is; one that waits is passed over where it comes up.
local function finish(id, key, state, cause, ...)
  local before, class, lane, batch = unpack(redis.call('HMGET', key, 'state', 'class', 'lane', 'batch'))
  if before == 'queued' then end_to_wait(class, lane) end
  redis.call('HSET', key, 'state', state, 'ended_ms', integer(now), ...)
  redis.call('HDEL', key, 'owner', 'boot', 'seconds_left')
  count_end(id, state, cause, batch)
end

-- The end of a job that has: what its owner has packed of it is kept, and what the scripts ask for.
local function finish_completed(id, key, token, document)
  local batch, once = unpack(redis.call('HMGET', key, 'batch', 'once'))
  local kept = { 'state', 'completed', 'token', token, 'ended_ms', integer(now) }
  if once then kept[7], kept[8] = 'once', once end
  redis.call('DEL', key)
  redis.call('HSET', key, unpack(add_pieces(kept, document)))
  count_end(id, 'completed', 'completed', batch)
end

-- Ended jobs that are no longer kept, and the keys by which a repeated submission would find them.
local function forget()
  for _ = 1, 100 do
    local ended, id = string.match(redis.call('LINDEX', ENDED, 0) or '', '^(%d+) (.*)$')
    if not ended or tonumber(ended) >= now - RETENTION_MS then return end
    redis.call('LPOP', ENDED)
    local last, once = unpack(redis.call('HMGET', JOB .. id, 'ended_ms', 'once'))
    if last == ended then  -- or it was put back since
      local bucket, field = IDEMPOTENCY .. string.sub(once or '', 1, BUCKET), string.sub(once or '', BUCKET + 1)
      if once and redis.call('HGET', bucket, field) == id then redis.call('HDEL', bucket, field) end
      redis.call('ZREM', DEAD, id)
      redis.call('DEL', JOB .. id)
    end
  end
end

-- The instance that ran it is gone: another start, unless that has happened too often.
local function after_crash(id)
  local key = JOB .. id
  redis.call('ZREM', LEASES, id)
  local state, owner, attempt = unpack(redis.call('HMGET', key, 'state', 'owner', 'attempt'))
  if state ~= 'running' then return end
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

-- What is due: retries whose time has come, jobs whose lease has run out.
local function tend()
  local due = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now, 'LIMIT', 0, 100)
  for _, id in ipairs(due) do
    redis.call('ZREM', DELAYED, id)
    if redis.call('HGET', JOB .. id, 'state') == 'retrying' then give_back(id, JOB .. id, 'due') end
  end
  local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 100)
  for _, id in ipairs(expired) do after_crash(id) end
  return #due + #expired
end
