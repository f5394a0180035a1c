-- Videos that are removed, or are no longer what was put there. ARGV[5...] place and what was put there (JSON), in turn;
-- a place that holds another job's video by now is left. Answers 'ok'.
for at = 5, #ARGV, 2 do
  local known = redis.call('HGET', RESULT_FILES, ARGV[at])
  if not known or known == ARGV[at + 1] then
    redis.call('ZREM', RESULTS, ARGV[at])
    redis.call('HDEL', RESULT_FILES, ARGV[at])
  end
end
return 'ok'
