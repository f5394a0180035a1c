-- What became of a mail. ARGV[5] kind, [6] token, [7] how many lines it told, 0 when it was not sent, [8] how many had been
-- dropped, [9] ms until the next mail of this kind, or the next try. Answers 'ok' | 'stale'; 'ok' again to a repeated call.
local kind, token, count, dropped = ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local current, settled = unpack(redis.call('HMGET', MAILED, kind .. ':token', kind .. ':settled'))
if settled == token then return 'ok' end
if current ~= token then return 'stale' end
local later = integer(now + tonumber(ARGV[9]))
redis.call('HSET', MAILED, kind .. ':settled', token)
if count > 0 then
  -- Lines that were dropped while the mail was under way were the first ones of it.
  local since = (tonumber(redis.call('HGET', MAILED, kind .. ':dropped')) or 0) - dropped
  redis.call('LTRIM', MAILS .. kind, math.max(0, count - since), -1)
  redis.call('HINCRBY', MAILED, kind .. ':sent', count + dropped)
  redis.call('HSET', MAILED, kind .. ':dropped', math.max(0, since - count), kind .. ':next', later)
end
if redis.call('EXISTS', MAILS .. kind) == 1 then
  redis.call('ZADD', MAIL_OUTBOX, later, kind)
else
  redis.call('ZREM', MAIL_OUTBOX, kind)
end
return 'ok'
