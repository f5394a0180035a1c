-- An uploaded file that is deleted. ARGV[5] its id. Answers 'missing', the folder of its bytes when no other file has them, or ''.
local id = ARGV[5]
local text = redis.call('GET', ASSET .. id)
if not text then return 'missing' end
local record = cjson.decode(text)
local blob = BLOB .. record.blob
redis.call('DEL', ASSET .. id)
redis.call('ZREM', ASSETS .. record.caller, id)
redis.call('HDEL', blob, 'asset:' .. id)
for _, field in ipairs(redis.call('HKEYS', blob)) do
  local other = string.match(field, '^asset:(.*)$')
  if other and redis.call('EXISTS', ASSET .. other) == 1 then return '' end
end
local folder = redis.call('HGET', blob, 'folder')
redis.call('DEL', blob)
return folder or ''
