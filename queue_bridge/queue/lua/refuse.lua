-- A waiting job that this instance has set aside and found to be at fault, ended before its start. ARGV[5] job,
-- [6] instance, [7] error. Answers 'ok', or 'stale' when it is no longer this instance's to look at.
local id = ARGV[5]
local state, by, error_then = of_job(id, 'state', 'ahead', 'error')
if by ~= ARGV[6] then return 'stale' end
if state == 'failed' and error_then == ARGV[7] then return 'ok' end  -- the answer was lost on its way
if state ~= 'queued' then return 'stale' end
finish(id, JOB .. id, 'failed', 'bad input', 'error', ARGV[7], 'error_kind', 'bad input')
return 'ok'
