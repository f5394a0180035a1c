-- What an operator wishes of a start, asked by its owner. ARGV[5] instance, [6] job, [7] token.
-- Answers {'cancelled' | 'drained' | '' , ms until 'drained' or -1, id of the last wish, to wait behind}.
-- A start whose video is chosen is left to its end, which is near.
local wish_id = '0-0'
if redis.call('EXISTS', WISHES) == 1 then
  local facts = redis.call('XINFO', 'STREAM', WISHES)
  for at = 1, #facts, 2 do
    if facts[at] == 'last-generated-id' then wish_id = facts[at + 1] end
  end
end
local state, token, staged, cancel = of_job(ARGV[6], 'state', 'token', 'staged', 'cancel_ms')
if state ~= 'running' or token ~= ARGV[7] or staged then return { '', -1, wish_id } end
if cancel then return { 'cancelled', -1, wish_id } end
local until_ms = redis.call('HGET', DRAINING, ARGV[5])
if not until_ms then return { '', -1, wish_id } end
local left = math.max(0, tonumber(until_ms) - now)
return { left == 0 and 'drained' or '', left, wish_id }
