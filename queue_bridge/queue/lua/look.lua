-- Whose connections should be there. ARGV[5] for how many ms one look is enough for all.
-- Answers {{name, boot, connection}, ...}, nothing when another one has just looked.
if not redis.call('SET', LOOKED, 1, 'NX', 'PX', ARGV[5]) then return {} end
local found = {}
for _, name in ipairs(redis.call('SMEMBERS', INSTANCES)) do
  local boot, connection = unpack(redis.call('HMGET', INSTANCE .. name, 'boot', 'connection'))
  if boot and connection and connection ~= '' then found[#found + 1] = { name, boot, connection } end
end
return found
