-- What became of a try. ARGV[5] message, [6] token, [7] 'delivered' | 'retry' | 'failed' | 'gone', [8] delay in ms (retry),
-- [9] the receiver's status or 0, [10] what it did, as a sentence, [11] its address without what may be secret.
-- Answers 'ok', 'stale' when another deliverer has it by now, or 'missing'. Repeating the call answers 'ok' again.
local id, token, outcome = ARGV[5], ARGV[6], ARGV[7]
local key = MESSAGE .. id
local current, settled, url, state = unpack(redis.call('HMGET', key, 'token', 'settled', 'url', 'state'))
if not state then return 'missing' end
if settled == token then return 'ok' end
if current ~= token then return 'stale' end
redis.call('HSET', key, 'settled', token, 'status', ARGV[9], 'said', ARGV[10], 'tried_ms', integer(now))
redis.call('HINCRBY', key, 'tries', 1)
if outcome == 'retry' then
  redis.call('HINCRBY', OUTBOX_TOTALS, 'retried', 1)
  redis.call('ZADD', OUTBOX, integer(now + tonumber(ARGV[8])), id)
  redis.call('PEXPIRE', key, integer(math.max(MESSAGE_KEPT_MS, RETENTION_MS)))
  return 'ok'
end
end_message(id, outcome == 'delivered' and 'delivered' or 'failed', ARGV[10])
if outcome == 'gone' and redis.call('HSETNX', DISABLED, url, integer(now)) == 1 then
  add_mail('endpoint disabled', 'The webhooks to ' .. ARGV[11] .. ' are disabled: ' .. ARGV[10])
elseif outcome == 'failed' then
  add_mail('webhook failed', 'The webhook ' .. id .. ' to ' .. ARGV[11] .. ' is given up: ' .. ARGV[10])
end
return 'ok'
