-- Uploaded files that somebody looks at. ARGV[5] 1 when they are used, so that they are kept for longer; [6...] their ids. Answers
-- for each the record, and folder, name and number of its bytes; an empty list for one that is not there.
local answers = {}
for at = 6, #ARGV do
  local id, found = ARGV[at], {}
  local text = redis.call('GET', ASSET .. id)
  if text then
    local record = cjson.decode(text)
    local blob, list = BLOB .. record.blob, ASSETS .. record.caller
    local where = redis.call('HMGET', blob, 'folder', 'file', 'bytes')
    if where[1] then
      found = { text, unpack(where) }
      if ARGV[5] == '1' then
        redis.call('PEXPIRE', ASSET .. id, RETENTION_MS)
        redis.call('PEXPIRE', blob, RETENTION_MS)
        redis.call('ZADD', list, integer(now), id)
        redis.call('PEXPIRE', list, RETENTION_MS)
      end
    end
  end
  answers[#answers + 1] = found
end
return answers
