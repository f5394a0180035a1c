-- Instances whose connection is gone. ARGV[5] for how many ms one may be; then two values each: name, boot id.
-- One that has come back has said so since (register.lua), which ends its count. Answers how many have died.
if now < spared_until() then return 0 end  -- after the server's start every connection is gone
local died = 0
for at = 6, #ARGV, 2 do
  local key = INSTANCE .. ARGV[at]
  local boot, missed = unpack(redis.call('HMGET', key, 'boot', 'missed_ms'))
  if boot == ARGV[at + 1] then
    if not missed then
      redis.call('HSET', key, 'missed_ms', integer(now))
    elseif now - tonumber(missed) >= tonumber(ARGV[5]) then
      bury(ARGV[at], boot)
      forget_instance(ARGV[at])
      died = died + 1
    end
  end
end
return died
