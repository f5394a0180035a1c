-- One request of a caller out of its bucket. ARGV[5] the caller, [6] how many a minute it may make, and at once at most.
-- Answers 0, or in how many ms to ask again.
local key, most = BUCKET_OF .. ARGV[5], tonumber(ARGV[6])
local left, at = unpack(redis.call('HMGET', key, 'left', 'at'))
left, at = tonumber(left) or most, tonumber(at) or now
left = math.min(most, left + math.max(0, now - at) * most / 60000)
local wait = left < 1 and math.ceil((1 - left) * 60000 / most) or 0
if wait == 0 then left = left - 1 end
redis.call('HSET', key, 'left', tostring(left), 'at', integer(now))
redis.call('PEXPIRE', key, 120000)
return wait
