-- Who is told of ends beside a job's own callback. ARGV[5] 'add' | 'forget' | 'enable', [6] address or 'mail', [7] its events
-- ('' for all). Repeating the call changes nothing. Answers 'ok', or 'missing' for what was not there.
local what, url = ARGV[5], ARGV[6]
if what == 'add' then
  redis.call('HSET', SINKS, url, ARGV[7])
  return 'ok'
end
local there = redis.call('HDEL', DISABLED, url)
if what == 'forget' then there = there + redis.call('HDEL', SINKS, url) end
return there > 0 and 'ok' or 'missing'
