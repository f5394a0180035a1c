-- What is to be mailed now, for one deliverer, which has it for the time of a lease. ARGV[5] lease in ms.
-- Answers {kind, token, number of the first line, how many were dropped before it, line (JSON), ...}, or {} for nothing.
local kind = redis.call('ZRANGEBYSCORE', MAIL_OUTBOX, '-inf', now, 'LIMIT', 0, 1)[1]
if not kind then return {} end
local lines = redis.call('LRANGE', MAILS .. kind, 0, -1)
if #lines == 0 then
  redis.call('ZREM', MAIL_OUTBOX, kind)
  return {}
end
redis.call('ZADD', MAIL_OUTBOX, integer(now + tonumber(ARGV[5])), kind)
local token = redis.call('HINCRBY', MAILED, kind .. ':token', 1)
local sent, dropped = unpack(redis.call('HMGET', MAILED, kind .. ':sent', kind .. ':dropped'))
return { kind, token, tonumber(sent) or 0, tonumber(dropped) or 0, unpack(lines) }
