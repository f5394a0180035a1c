-- What is known of the alerts from now on, and the news. ARGV[5] how often something had been written when it was decided,
-- [6] what is known (JSON), then for each news its event, what it is about, its data (JSON), a sentence to be mailed or ''.
-- Answers 'ok', or 'stale' when another one has decided meanwhile; 'ok' again to a repeated call.
local number, known = unpack(redis.call('HMGET', ALERTS, 'number', 'known'))
number = tonumber(number) or 0
local expected = tonumber(ARGV[5])
if number == expected + 1 and known == ARGV[6] then return 'ok' end
if number ~= expected then return 'stale' end
redis.call('HSET', ALERTS, 'number', integer(number + 1), 'known', ARGV[6])

local listeners, made = {}, 0
local sinks = redis.call('HGETALL', SINKS)
for at = 1, #sinks, 2 do listeners[sinks[at]] = sinks[at + 1] end
listeners[MAIL] = nil
for at = 7, #ARGV, 4 do
  made = add_messages(listeners, 'msg_alert_' .. integer(now) .. '_' .. integer(number), made, ARGV[at], ARGV[at + 1],
    cjson.decode(ARGV[at + 2]))
  if ARGV[at + 3] ~= '' then add_mail('alert', ARGV[at + 3]) end
end
return 'ok'
