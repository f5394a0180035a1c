-- An instance is to take no new job, or is to take jobs again. ARGV[5] its name, [6] 1 to drain, 0 to undo it,
-- [7] ms after which the job at hand is given back. Answers {'ok', ids of its running jobs...} | {'missing'} (no such
-- instance lives) | {'undone'} | {'not draining'}. The wish belongs to the name: a restarted server finds it again.
local name = ARGV[5]
if ARGV[6] == '0' then
  if redis.call('HDEL', DRAINING, name) == 0 then return { 'not draining' } end
  wake()
  redis.call('XADD', WISHES, 'MAXLEN', '~', '64', '*', 'instance', name)
  return { 'undone' }
end
if redis.call('EXISTS', INSTANCE .. name) == 0 and redis.call('HEXISTS', DRAINING, name) == 0 then return { 'missing' } end
redis.call('HSET', DRAINING, name, integer(now + tonumber(ARGV[7])))
end_to_await(name)
redis.call('XADD', WISHES, 'MAXLEN', '~', '64', '*', 'instance', name)
local answer = { 'ok' }
for _, id in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
  if of_job(id, 'owner') == name then answer[#answer + 1] = id end
end
return answer
