-- Whose turn it is to look for alerts. ARGV[5] for how many ms one look is enough for all.
-- Answers {the time in ms, how often something was written, what is known (JSON) or ''}, nothing when another one has just
-- looked.
local looked, number, known = unpack(redis.call('HMGET', ALERTS, 'looked', 'number', 'known'))
local since = now - (tonumber(looked) or 0)
if since >= 0 and since < tonumber(ARGV[5]) then return {} end
redis.call('HSET', ALERTS, 'looked', integer(now))
return { now, tonumber(number) or 0, known or '' }
