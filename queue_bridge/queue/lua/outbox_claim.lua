-- Webhooks whose try is due, for one deliverer, which has them for the time of a lease. ARGV[5] lease in ms, [6] how many at
-- most, [7] how many at once to one host, [8...] host and how many this deliverer has under way to it, in turn.
-- Answers {ms until it is worth asking again (sooner when a try ends) or -1, {id, token, tries so far, address, event, body}, ...}. Whoever takes a message over
-- after a lease has a higher token. An answer that is lost costs a lease, and no try.
local SCAN, HOLD_MS = 200, 1000
local held = {}
local lease, most, each = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local busy, answer = {}, { -1 }
for at = 8, #ARGV, 2 do busy[ARGV[at]] = tonumber(ARGV[at + 1]) end
local due = redis.call('ZRANGEBYSCORE', OUTBOX, '-inf', now, 'LIMIT', 0, SCAN)
for _, id in ipairs(due) do
  if #answer > most then break end
  local key = MESSAGE .. id
  local url, host, event, body, tries = unpack(redis.call('HMGET', key, 'url', 'host', 'event', 'body', 'tries'))
  if not body then
    redis.call('ZREM', OUTBOX, id)
  elseif redis.call('HEXISTS', DISABLED, url) == 1 then
    end_message(id, 'failed', 'Its address is disabled.')
  elseif (busy[host] or 0) >= each then
    held[#held + 1] = id
  else
    busy[host] = (busy[host] or 0) + 1
    local token = redis.call('HINCRBY', key, 'token', 1)
    redis.call('ZADD', OUTBOX, integer(now + lease), id)
    answer[#answer + 1] = { id, token, tonumber(tries) or 0, url, event, body }
  end
end
if #answer > most then return answer end  -- there is no room for more until a try ends
if #due == SCAN then
  -- What goes to other hosts may be behind these, so they stand back for a moment.
  for _, id in ipairs(held) do redis.call('ZADD', OUTBOX, integer(now + HOLD_MS), id) end
  answer[1] = 0
else
  local first = redis.call('ZRANGEBYSCORE', OUTBOX, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] then answer[1] = tonumber(first[2]) - now end
end
return answer
