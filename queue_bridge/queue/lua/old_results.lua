-- Videos that are older than they are kept. ARGV[5] how long in ms, [6] how many of the oldest to pass over, [7] how many
-- at most. Answers {place, what was put there (JSON), place, ...}. What nobody could reach for very long is forgotten.
local GIVEN_UP_MS = 90 * 24 * 3600 * 1000
local answer = {}
for _, place in ipairs(redis.call('ZRANGEBYSCORE', RESULTS, '-inf', now - tonumber(ARGV[5]) - GIVEN_UP_MS, 'LIMIT', 0, 100)) do
  redis.call('ZREM', RESULTS, place)
  redis.call('HDEL', RESULT_FILES, place)
end
local old = redis.call('ZRANGEBYSCORE', RESULTS, '-inf', now - tonumber(ARGV[5]), 'LIMIT', ARGV[6], ARGV[7])
for _, place in ipairs(old) do
  answer[#answer + 1] = place
  answer[#answer + 1] = redis.call('HGET', RESULT_FILES, place) or '{}'
end
return answer
