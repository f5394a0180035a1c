-- Whether the server's user may do what the queue needs. A script that is refused half-way would leave half a job behind,
-- so this is asked first. ARGV[5...] the commands. Answers those that it may not use on the queue's keys, and '*' first
-- when it may use none on them.
local KEY_LAST = {  -- arguments before the key, where that is not the first one
  XREADGROUP = { 'GROUP', GROUP, CONSUMER, 'STREAMS', WAKE, '>' },
  XREAD = { 'STREAMS', WAKE, '0-0' },
  XGROUP = { 'CREATE', WAKE, GROUP, '0' },
  XINFO = { 'STREAM', WAKE },
  TIME = {},
}
local missing, of_keys = {}, 0
for at = 5, #ARGV do
  local name = string.upper(ARGV[at])
  local arguments = KEY_LAST[name] or { WAKE, '0', '0', '0' }
  if name ~= 'TIME' then of_keys = of_keys + 1 end
  if not redis.acl_check_cmd(name, unpack(arguments)) then missing[#missing + 1] = name end
end
if of_keys > 1 and #missing >= of_keys then table.insert(missing, 1, '*') end
return missing
