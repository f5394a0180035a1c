-- An instance says that it lives. ARGV[5] name, [6] boot id, [7] host, [8] process, [9] ms until it counts as dead,
-- [10] 1 when the one of that name is known to be dead, [11...] further fields and values.
-- Answers {'ok', jobs taken from an earlier boot} or {'taken', host, process} when another one of that name lives.
local name, boot = ARGV[5], ARGV[6]
local key = INSTANCE .. name
local other, host, process = unpack(redis.call('HMGET', key, 'boot', 'host', 'process'))
if other and other ~= boot and ARGV[10] ~= '1' then return { 'taken', host, process } end
local taken = 0
if other ~= boot then
  redis.call('DEL', key)
  redis.call('SADD', INSTANCES, name)
  -- Whatever an earlier process of this name ran has died with it.
  for _, id in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
    local owner, owner_boot
    if is_record(id) then owner, owner_boot = unpack(redis.call('HMGET', JOB .. id, 'owner', 'boot')) end
    if owner == name and owner_boot ~= boot then
      after_crash(id)
      taken = taken + 1
    end
  end
end
redis.call('HSET', key, 'name', name, 'boot', boot, 'host', ARGV[7], 'process', ARGV[8], 'seen_ms', integer(now),
  unpack(ARGV, 11))
redis.call('PEXPIRE', key, ARGV[9])
return { 'ok', taken }
