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
local MESSAGE_KEPT_MS = 30 * 24 * 3600 * 1000  -- a webhook that nobody has delivered by then is given up
local MAIL_LINES, MESSAGES_SHOWN = 1000, 10000
local FIRST_TOKEN = '1'  -- that of a completed job's record that names none (job.py)
local FORGOTTEN_A_CALL = 500  -- so that no call takes long
local SPEC_MAX = 65536  -- as in job.py: more is no description of a job
local NOT_BEGUN = 'Waiting'  -- the stage of a job whose prompt has not begun yet (job_progress.py)
local STATES = { queued = 1, running = 1, retrying = 1, completed = 1, failed = 1, cancelled = 1 }
local NEXT = {  -- what a running job may become
  completed = true, failed = true, cancelled = true, retrying = true, queued = true,
}
local NUMBERS = { 'place', 'token', 'attempt', 'failures', 'crashes', 'degradations', 'device_faults', 'redraws', 'percent' }

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

-- Values of a job's record, false for each that is missing; nothing when there is something else in its place.
local function of_job(id, ...)
  local values = redis.pcall('HMGET', JOB .. id, ...)
  if values.err then return end
  return unpack(values)
end

-- A job's record in a row, and by name; nothing when there is something else in its place.
local function read_job(id)
  local fields, job = redis.pcall('HGETALL', JOB .. id), {}
  if fields.err then return end
  for at = 1, #fields, 2 do job[fields[at]] = fields[at + 1] end
  return fields, job
end

-- id: of one job, or of several that have been submitted together, with spaces between them.
local function emit(id, state, cause, ...)
  return redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*',
    'job', id, 'state', state, 'cause', cause, 'at', integer(now), ...)
end

local function wake()
  redis.call('XADD', WAKE, 'MAXLEN', '~', '64', '*', 'at', integer(now))
end

-- One more in the counts of all jobs (figures.py).
local function tally(field) redis.call('HINCRBY', FIGURES, field, 1) end

-- Adds one to a number of a job; one that was spoilt by hand begins again. Answers what it is then.
local function step(key, field)
  local answer = redis.pcall('HINCRBY', key, field, 1)
  if type(answer) == 'number' then return answer end
  redis.call('HSET', key, field, 1)
  return 1
end

-- One line of JSON behind the others: what happened to the job, kept for people.
local function remember(key, entry)
  entry.at = now
  local lines = redis.call('HGET', key, 'history')
  redis.call('HSET', key, 'history', (lines and lines ~= '') and lines .. '\n' .. cjson.encode(entry) or cjson.encode(entry))
end

local function count_in_batch(key, state, by)
  local batch = redis.call('HGET', key, 'batch')
  if batch then redis.pcall('HINCRBY', BATCH .. batch, state, by) end
end

-- As many entries into a lane's stream as jobs begin to wait in it, whichever they are: their number is what counts.
-- The batch takes its turn behind those that wait already. Whoever sleeps has seen the lane empty, so only the first
-- that waits wakes anybody.
local function begin_to_wait(class, lane, batch, count)
  local stream, first = QUEUE .. class .. ':' .. lane, 1
  if redis.call('XADD', stream, 'NOMKSTREAM', '*', 'waits', 1) then
    first = 2
  else
    redis.call('SADD', LANES, class .. ':' .. lane)
    redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  end
  for _ = first, count do redis.call('XADD', stream, '*', 'waits', 1) end
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

local function flow_of(class, lane, batch) return class .. ':' .. lane .. ':' .. batch end

-- A batch of which nothing waits any more has no turn. Answers whether that is so.
local function drop_empty_flow(class, lane, batch)
  local flow = flow_of(class, lane, batch)
  if redis.call('EXISTS', RETURNED .. flow, WAITING .. flow) > 0 then return false end
  redis.call('ZREM', FLOWS .. class .. ':' .. lane, batch)
  return true
end

-- Takes a job that waits out of its batch, wherever it stands there.
local function leave_flow(id, class, lane, batch)
  local flow = flow_of(class, lane, batch)
  if redis.call('ZREM', RETURNED .. flow, id) == 0 then redis.call('LREM', WAITING .. flow, 1, id) end
  drop_empty_flow(class, lane, batch)
  end_to_wait(class, lane)
end

-- One more line for the next mail to the operator of this kind, where somebody sends mails.
local function add_mail(kind, text)
  if redis.call('HEXISTS', SINKS, MAIL) == 0 then return end
  if redis.call('RPUSH', MAILS .. kind, cjson.encode({ at = now, text = text })) > MAIL_LINES then
    redis.call('LPOP', MAILS .. kind)
    redis.call('HINCRBY', MAILED, kind .. ':dropped', 1)
  end
  local earliest = tonumber(redis.call('HGET', MAILED, kind .. ':next')) or 0
  redis.call('ZADD', MAIL_OUTBOX, 'NX', integer(math.max(now, earliest)), kind)
end

-- A webhook that is delivered or given up; kept for a while, for people, and to be delivered again.
local function end_message(id, state, said)
  redis.call('HSET', MESSAGE .. id, 'state', state, 'said', said)
  redis.call('PEXPIRE', MESSAGE .. id, RETENTION_MS)
  redis.call('ZREM', OUTBOX, id)
  redis.call('LPUSH', OUTBOX_ENDED, id)
  redis.call('LTRIM', OUTBOX_ENDED, 0, MESSAGES_SHOWN - 1)
  redis.call('HINCRBY', OUTBOX_TOTALS, state, 1)
end

local function iso(ms)  -- the civil date of a day: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"
  if not ms or ms == '' then return nil end
  local seconds, rest = math.floor(ms / 1000), ms % 1000
  local days, second = math.floor(seconds / 86400) + 719468, seconds % 86400
  local era = math.floor(days / 146097)
  local doe = days - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day, month = doy - math.floor((153 * mp + 2) / 5) + 1, mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day, math.floor(second / 3600),
    math.floor(second / 60) % 60, second % 60, rest)
end

-- Whole messages to those of the listeners (address -> its events, '' for all) that want this kind. number: how many of this
-- name there are already; answers how many there are then.
local function add_messages(listeners, name, number, kind, about, data)
  local body = cjson.encode({ type = kind, timestamp = iso(now), data = data })
  for url, events in pairs(listeners) do
    if events == '' or string.find(' ' .. events .. ' ', ' ' .. kind .. ' ', 1, true) then
      number = number + 1
      local message = number == 1 and name or name .. '_' .. number
      local host = string.lower(string.match(url, '^%a+://([^/?#]+)') or '')
      redis.call('HSET', MESSAGE .. message, 'state', 'pending', 'url', url, 'host', host, 'event', kind,
        'about', about, 'made_ms', integer(now), 'body', body)
      redis.call('PEXPIRE', MESSAGE .. message, integer(math.max(MESSAGE_KEPT_MS, RETENTION_MS)))
      redis.call('ZADD', OUTBOX, integer(now), message)
      redis.call('XADD', OUTBOX_WAKE, 'MAXLEN', '~', '64', '*', 'at', integer(now))
    end
  end
  return number
end

-- Tells of a job's end outside: its callback, the operator's webhooks, mails. Whole messages, which nobody changes any
-- more, in the same step as the end itself. sinks: address -> its events ('' for all). job: what the record said.
local function tell_end(id, state, cause, batch, event, sinks, job)
  local listeners, made = {}, 0
  for at = 1, #sinks, 2 do listeners[sinks[at]] = sinks[at + 1] end
  local mails = listeners[MAIL]
  listeners[MAIL] = nil
  if job.callback then listeners[job.callback] = '' end
  if batch and string.sub(batch, 1, #OWN_BATCH) == OWN_BATCH then batch = nil end  -- nobody has named it, so nobody waits for it
  local name = 'msg_' .. string.gsub(id, '[^%w_-]', '-') .. '_' .. string.gsub(event, '-', '_')

  local function send(kind, about, data) made = add_messages(listeners, name, made, kind, about, data) end

  if next(listeners) then
    local data = {
      task_id = id, state = state, cause = cause, batch = batch or nil, attempt = tonumber(job.attempt),
      submitted = iso(tonumber(job.submitted_ms)), started = iso(tonumber(job.started_ms)), ended = iso(now),
    }
    if state == 'failed' then data.error, data.error_kind = job.error, job.error_kind end
    local known, laid = pcall(cjson.decode, job.staged or '')
    local result = known and type(laid) == 'table' and laid.result
    if state == 'completed' and type(result) == 'table' then
      data.result = {
        output = result.output, bytes = result.bytes, sha256 = result.sha256, seconds = result.seconds,
        resolution = result.resolution, degraded = result.degraded, instance = result.instance,
        warnings = type(result.warnings) == 'table' and #result.warnings > 0 and result.warnings or nil,
      }
    end
    send('job.' .. state, id, data)
  end
  if mails and state == 'failed' and redis.call('ZSCORE', DEAD, id) then
    add_mail('dead letter', 'The job ' .. id .. ' lies in the dead letter: ' .. (job.error or cause))
  end
  if not batch then return end
  local counts = redis.pcall('HMGET', BATCH .. batch, 'total', 'completed', 'failed', 'cancelled')
  if counts.err then return end
  local total, completed, failed, cancelled = tonumber(counts[1]) or 0, tonumber(counts[2]) or 0, tonumber(counts[3]) or 0,
    tonumber(counts[4]) or 0
  if total == 0 or completed + failed + cancelled < total then return end
  local data = { batch = batch, total = total, completed = completed, failed = failed, cancelled = cancelled }
  if next(listeners) then send('batch.completed', batch, data) end
  if mails then
    add_mail('batch ended', string.format('The batch %s has ended: %d completed, %d failed, %d cancelled.', batch,
      completed, failed, cancelled))
  end
end

-- What tell_end needs of a record, nothing when nobody listens; to be asked while the record is there.
local function listening(id, callback)
  local sinks = redis.call('HGETALL', SINKS)
  if not callback and #sinks == 0 then return end
  local _, job = read_job(id)
  return sinks, job or {}
end

local function count_end(id, state, cause, batch, caller, sinks, job)
  if caller then redis.call('HINCRBY', UNENDED, caller, -1) end
  redis.call('RPUSH', ENDED, id)
  redis.call('HINCRBY', TOTALS, state, 1)
  tally('ended:' .. state .. ':' .. cause)
  if batch then redis.pcall('HINCRBY', BATCH .. batch, state, 1) end
  local event = emit(id, state, cause)
  if sinks then tell_end(id, state, cause, batch, event, sinks, job) end
end

-- The end of a job that has not completed and waits in no batch.
local function finish_taken(id, key, state, cause, ...)
  redis.call('HSET', key, 'state', state, 'ended_ms', integer(now), ...)
  redis.call('HDEL', key, 'owner', 'boot', 'seconds_left')
  local batch, callback, caller = unpack(redis.call('HMGET', key, 'batch', 'callback', 'caller'))
  count_end(id, state, cause, batch, caller, listening(id, callback))
end

-- The end of a job that has not completed, wherever it is.
local function finish(id, key, state, cause, ...)
  local before, class, lane, batch = unpack(redis.call('HMGET', key, 'state', 'class', 'lane', 'batch'))
  if before == 'queued' and class and lane then leave_flow(id, class, lane, batch or '') end
  finish_taken(id, key, state, cause, ...)
end

-- The end of a job that has: what its owner has packed of it is kept, and what the scripts ask for.
local function finish_completed(id, key, token, document)
  local batch, once, callback, caller = unpack(redis.call('HMGET', key, 'batch', 'once', 'callback', 'caller'))
  local sinks, job = listening(id, callback)
  local kept = { 'state', 'completed', 'ended_ms', integer(now) }
  for name, value in pairs({ once = once, caller = caller, token = token ~= FIRST_TOKEN and token }) do
    if value then
      kept[#kept + 1] = name
      kept[#kept + 1] = value
    end
  end
  redis.call('DEL', key)
  redis.call('HSET', key, unpack(add_pieces(kept, document)))
  count_end(id, 'completed', 'completed', batch, caller, sinks, job)
end

-- A job that an operator has cancelled; its owner says so, or is gone, or there is none.
local function finish_cancelled(id, key)
  redis.call('HDEL', key, 'cancel_ms', 'stage')
  finish(id, key, 'cancelled', 'cancelled')
end

-- The oldest entries of what a caller has submitted go when their jobs are no longer kept.
local function trim_submitted(caller)
  for _ = 1, FORGOTTEN_A_CALL do
    local first = redis.call('XRANGE', SUBMITTED .. caller, '-', '+', 'COUNT', 1)[1]
    if not first then return redis.call('SREM', CALLERS, caller) end
    local keys = {}
    for one in string.gmatch(first[2][2], '%S+') do keys[#keys + 1] = JOB .. (first[2][4] or '') .. one end
    if redis.call('EXISTS', unpack(keys)) > 0 then return end
    redis.call('XDEL', SUBMITTED .. caller, first[1])
  end
end

-- What stands in the place of an instance's last claim while it sleeps: id of that claim, boot id, lease and until when it
-- waits in ms, the lanes that it serves, each between spaces.
local AWAITS = '^(%S+) %* (%S+) (%d+) (%d+)( .*)$'

-- It is handed nothing any more.
local function end_to_await(instance)
  if string.find(redis.call('GET', CLAIM .. instance) or '', AWAITS) then redis.call('DEL', CLAIM .. instance) end
end

-- A job runs. job: what its record said. Then further fields and values of the event. Answers the fields and values that
-- are to be new in the record.
local function start(id, job, instance, boot, claim_id, lease_ms, ...)
  local token, attempt = integer((job.token or 0) + 1), integer((job.attempt or 0) + 1)
  local started = { 'state', 'running', 'token', token, 'attempt', attempt, 'owner', instance, 'boot', boot,
    'started_ms', integer(now) }
  redis.call('ZADD', LEASES, now + lease_ms, id)
  redis.call('SET', CLAIM .. instance, claim_id .. ' ' .. id .. ' ' .. token, 'PX', integer(RETENTION_MS))
  emit(id, 'running', 'claimed', 'instance', instance, 'attempt', attempt, 'token', token, ...)
  return started
end

-- New jobs to the instances that have slept longest, as if each had claimed one when it was made: their answer to the
-- question that they went to sleep with. Nothing else may wait in the lane. One that has died in its sleep costs the job
-- no attempt. ids, said, asked: of the jobs, in the same order, what is known of each and what it asks for; nothing of it
-- is written yet, and what a start adds comes behind what was known. Answers how many of them have been started.
local function hand_over(class, lane, ids, said, asked)
  if redis.call('EXISTS', FLOWS .. class .. ':' .. lane) == 1 then return 0 end
  local handed = 0
  while ids[handed + 1] do
    local instance = redis.call('ZPOPMIN', AWAITING .. lane)[1]
    if not instance then break end
    local claim_id, boot, lease_ms, till, lanes = string.match(redis.call('GET', CLAIM .. instance) or '', AWAITS)
    if claim_id and tonumber(till) > now and string.find(lanes, ' ' .. lane .. ' ', 1, true) then
      handed = handed + 1
      local id, fields = ids[handed], said[handed]
      redis.call('XADD', HANDED .. instance, '*', 'id', id, 'spec', asked[handed], unpack(fields))
      for _, value in ipairs(start(id, {}, instance, boot, claim_id, tonumber(lease_ms), 'handed', 1)) do
        fields[#fields + 1] = value
      end
      fields[#fields + 1] = 'stage'
      fields[#fields + 1] = NOT_BEGUN
    end
  end
  return handed
end

-- Ended jobs that are no longer kept, and the keys by which a repeated submission would find them.
local function forget()
  for _ = 1, FORGOTTEN_A_CALL do
    local id = redis.call('LINDEX', ENDED, 0)
    if not id then return end
    local ended, once, caller = of_job(id, 'ended_ms', 'once', 'caller')
    if (tonumber(ended or '') or 0) >= now - RETENTION_MS then return end
    redis.call('LPOP', ENDED)
    if ended then  -- or somebody has deleted its record
      local bucket, field = IDEMPOTENCY .. string.sub(once or '', 1, BUCKET), string.sub(once or '', BUCKET + 1)
      if once and redis.call('HGET', bucket, field) == id then redis.call('HDEL', bucket, field) end
      redis.call('ZREM', DEAD, id)
      redis.call('DEL', JOB .. id)
      trim_submitted(caller or '')
    end
  end
end

-- Ends a job whose record somebody changed by hand, so that it holds up nobody else's; it waits in no batch.
local function refuse(id, key, why)
  local sentence = 'The record of this job in the queue is spoilt: ' .. why .. '; submit the job again.'
  finish_taken(id, key, 'failed', 'bad input', 'error', sentence, 'error_kind', 'bad input')
end

-- What makes a record unfit for a start, in words, or nil.
local function spoilt(job)
  if not job.state then return "its field 'state' is missing" end
  if not STATES[job.state] then return "its state '" .. string.sub(job.state, 1, 40) .. "' is none" end
  for _, name in ipairs({ 'class', 'lane', 'place' }) do
    if not job[name] then return "its field '" .. name .. "' is missing" end
  end
  if job.class ~= 'priority' and job.class ~= 'pending' then return "its field 'class' is neither priority nor pending" end
  if not string.find(job.lane, '^%d+') then return "its field 'lane' begins with no resolution" end
  for _, name in ipairs(NUMBERS) do
    if job[name] and not string.find(job[name], '^%-?%d+%.?%d*$') then return "its field '" .. name .. "' is no number" end
  end
  local bytes, number = #(job.spec or ''), 0
  while not job.spec and job[tostring(number)] do
    bytes = bytes + #job[tostring(number)]
    number = number + 1
  end
  if bytes == 0 then return 'what it asks for is missing' end
  if bytes > SPEC_MAX then return 'what it asks for takes ' .. integer(bytes) .. ' bytes, and ' .. SPEC_MAX .. ' are the limit' end
end

-- To wait for another start, ahead of what its batch has never started, in the order of submission.
local function wait_again(id, job)
  local batch = job.batch or ''
  redis.call('ZADD', RETURNED .. flow_of(job.class, job.lane, batch), job.place, id)
  begin_to_wait(job.class, job.lane, batch, 1)
end

-- Back into its lane. A start that was taken back, or that was lost before its prompt began, counts for nothing. What an
-- owner says of its own start counts, whether or not its reports have come through.
local function give_back(id, key, cause)
  local _, job = read_job(id)
  local why = spoilt(job)
  if why then return refuse(id, key, why) end
  local lost = cause == 'instance died' and job.stage == NOT_BEGUN
  if lost or cause == 'drained' or cause == 'given back' then redis.pcall('HINCRBY', key, 'attempt', -1) end
  redis.call('HSET', key, 'state', 'queued', 'owner', '', 'stage', '')
  wait_again(id, job)
  emit(id, 'queued', cause)
end

-- The instance that ran it is gone: another start, unless that has happened too often or nobody wants it any more.
local function after_crash(id)
  local key = JOB .. id
  redis.call('ZREM', LEASES, id)
  local state, owner, attempt, stage, cancel = of_job(id, 'state', 'owner', 'attempt', 'stage', 'cancel_ms')
  if state ~= 'running' then return end
  if cancel then return finish_cancelled(id, key) end
  if stage == NOT_BEGUN then return give_back(id, key, 'instance died') end
  owner = owner or '?'
  local crashes = step(key, 'crashes')
  tally('returned:crashes')
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
    local owner, owner_boot = of_job(id, 'owner', 'boot')
    if owner == name and (owner_boot == boot) ~= (but or false) then
      after_crash(id)
      freed = freed + 1
    end
  end
  return freed
end

local function forget_instance(name)
  redis.call('DEL', INSTANCE .. name, CLAIM .. name, HANDED .. name)
  redis.call('SREM', INSTANCES, name)
end

-- A server's clock that was set back would keep leases, delays and drains for as much longer; they move back with it.
-- One that was set forward lets them end early, as a long silence of everybody would: that cannot be told apart.
local function heed_clock()
  local last = tonumber(redis.call('GET', CLOCK))
  if last and math.abs(now - last) <= 1000 then return end
  redis.call('SET', CLOCK, integer(now))
  if not last or now > last then return end
  local by = integer(now - last)
  for _, set in ipairs({ LEASES, DELAYED }) do
    for _, id in ipairs(redis.call('ZRANGE', set, 0, -1)) do redis.call('ZINCRBY', set, by, id) end
  end
  for _, name in ipairs(redis.call('HKEYS', DRAINING)) do redis.call('HINCRBY', DRAINING, name, by) end
  if redis.call('HEXISTS', GRACE, 'until') == 1 then redis.call('HINCRBY', GRACE, 'until', by) end
end

-- What is due: retries whose time has come, jobs whose lease has run out.
local function tend()
  heed_clock()
  local due = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', now, 'LIMIT', 0, 100)
  for _, id in ipairs(due) do
    redis.call('ZREM', DELAYED, id)
    if of_job(id, 'state') == 'retrying' then give_back(id, JOB .. id, 'due') end
  end
  local expired = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 100)
  local till = #expired > 0 and spared_until() or 0
  for _, id in ipairs(expired) do
    if now < till then redis.call('ZADD', LEASES, 'XX', till, id) else after_crash(id) end
  end
  return #due + #expired
end
