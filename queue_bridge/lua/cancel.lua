-- Jobs that somebody does not want any more. ARGV[5...] their ids. Answers for each what became of it:
-- 'cancelled' | 'cancelling' (its owner is told) | 'staged' (its video is chosen, so it completes) | 'completed' | 'failed' |
-- 'missing'. Repeating the call answers the same and tells the owner again.

-- Takes an entry that was never handed out from its stream, so that length and lag go on to say what waits. A deleted
-- entry would make the lag unknown until the group has passed it; the two numbers of XSETID put that right.
local function unqueue(stream, entry)
  local facts = {}
  local flat = redis.call('XINFO', 'STREAM', stream)
  for at = 1, #flat, 2 do facts[flat[at]] = flat[at + 1] end
  if redis.call('XDEL', stream, entry) == 0 then return end
  local deleted = facts['max-deleted-entry-id']
  -- Refused by a server that restricts its users, the lag is unknown for a while; nothing else depends on it.
  redis.pcall('XSETID', stream, facts['last-generated-id'], 'ENTRIESADDED', facts['entries-added'] - 1,
    'MAXDELETEDID', deleted == '0-0' and '0-1' or deleted)
end

local function cancel(id)
  local key = JOB .. id
  local state, class, lane, entry, staged, owner =
    unpack(redis.call('HMGET', key, 'state', 'class', 'lane', 'entry', 'staged', 'owner'))
  if not state then return 'missing' end
  if state == 'completed' or state == 'failed' or state == 'cancelled' then return state end
  if staged then return 'staged' end
  if state == 'running' then
    if redis.call('HSETNX', key, 'cancel_ms', integer(now)) == 1 then emit(id, 'running', 'to be cancelled') end
    redis.call('XADD', WISHES, 'MAXLEN', '~', '64', '*', 'instance', owner)
    return 'cancelling'
  end
  if state == 'retrying' then
    redis.call('ZREM', DELAYED, id)
  elseif redis.call('ZREM', RETURNED .. class .. ':' .. lane, id) == 0 and entry and entry ~= '' then
    unqueue(QUEUE .. class .. ':' .. lane, entry)
  end
  finish(id, key, 'cancelled', 'cancelled', 'stage', '')
  return 'cancelled'
end

local answers = {}
for at = 5, #ARGV do answers[#answers + 1] = cancel(ARGV[at]) end
return answers
