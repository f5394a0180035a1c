-- An uploaded file over bytes that lie in a folder. ARGV[5] its id, [6] its caller, [7] the id of the bytes, [8] their folder,
-- '' when they have to be there already, [9] their name in it, [10] how many they are, [11] the record (JSON).
-- Answers nothing when they are not there, else {1 when they lie in this folder now or 0, folder, name, how many}. Bytes
-- that are there stay where they are. Repeating the call makes nothing twice.
local id, list, blob = ARGV[5], ASSETS .. ARGV[6], BLOB .. ARGV[7]
local folder = redis.call('HGET', blob, 'folder')
if not folder then
  if ARGV[8] == '' then return {} end
  folder = ARGV[8]
  redis.call('HSET', blob, 'folder', folder, 'file', ARGV[9], 'bytes', ARGV[10])
end
redis.call('HSET', blob, 'asset:' .. id, 1)
redis.call('PEXPIRE', blob, RETENTION_MS)
redis.call('SET', ASSET .. id, ARGV[11], 'PX', RETENTION_MS)
redis.call('ZREMRANGEBYSCORE', list, '-inf', integer(now - RETENTION_MS))
redis.call('ZADD', list, integer(now), id)
redis.call('PEXPIRE', list, RETENTION_MS)
return { folder == ARGV[8] and 1 or 0, folder, unpack(redis.call('HMGET', blob, 'file', 'bytes')) }
