-- Webhooks that are to be delivered again, the same message with the same id. ARGV[5...] their ids. Answers for each 'ok' |
-- 'pending' (it waits for its next try, which is due now) | 'missing'.
local answers = {}
for at = 5, #ARGV do
  local key = MESSAGE .. ARGV[at]
  local state = redis.call('HGET', key, 'state')
  if state then
    redis.call('HSET', key, 'state', 'pending')
    redis.call('HDEL', key, 'tries')
    redis.call('HINCRBY', key, 'token', 1)  -- a try that is under way says nothing any more
    redis.call('PEXPIRE', key, integer(math.max(MESSAGE_KEPT_MS, RETENTION_MS)))
    redis.call('LREM', OUTBOX_ENDED, 1, ARGV[at])
    redis.call('ZADD', OUTBOX, integer(now), ARGV[at])
    redis.call('XADD', OUTBOX_WAKE, 'MAXLEN', '~', '64', '*', 'at', integer(now))
  end
  answers[#answers + 1] = not state and 'missing' or state == 'pending' and 'pending' or 'ok'
end
return answers
