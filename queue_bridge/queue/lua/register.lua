-- An instance says that it lives. ARGV[5] name, [6] boot id, [7] host, [8] process, [9] ms until it counts as dead,
-- [10] 1 when the one of that name is known to be dead, [11...] further fields and values.
-- Answers {'ok', jobs taken from an earlier boot} or {'taken', host, process} when another one of that name lives.
local name, boot = ARGV[5], ARGV[6]
local key = INSTANCE .. name
local other, host, process = unpack(redis.call('HMGET', key, 'boot', 'host', 'process'))
if other and other ~= boot and ARGV[10] ~= '1' then return { 'taken', host, process } end
redis.call('HSET', GRACE, 'lease_ms', ARGV[9])
spared_until()  -- the first to come after the server's start sees that
local taken = 0
if other ~= boot then
  redis.call('DEL', key, HANDED .. name)
  end_to_await(name)
  for _, gone in ipairs(redis.call('SRANDMEMBER', INSTANCES, 20)) do  -- names that died without a word pile up otherwise
    if redis.call('EXISTS', INSTANCE .. gone) == 0 then
      redis.call('SREM', INSTANCES, gone)
      redis.call('DEL', HANDED .. gone)
    end
  end
  redis.call('SADD', INSTANCES, name)
  -- Whatever an earlier process of this name ran has died with it.
  taken = bury(name, boot, true)
end
redis.call('HSET', key, 'name', name, 'boot', boot, 'host', ARGV[7], 'process', ARGV[8], 'seen_ms', integer(now),
  unpack(ARGV, 11))
redis.call('HDEL', key, 'missed_ms')
redis.call('PEXPIRE', key, ARGV[9])
return { 'ok', taken }
