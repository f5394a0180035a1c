-- Somebody was cut off for so long that others may have been, too. ARGV[5] for how many ms no lease runs out.
-- Not again before as much time has passed without: who keeps losing the server must not keep the dead alive.
-- Answers until when, in ms.
local till = spared_until()
if now >= till + tonumber(ARGV[5]) then
  till = now + tonumber(ARGV[5])
  redis.call('HSET', GRACE, 'until', integer(till))
end
return integer(till)
