-- Jobs out of the dead letter; they stay failed. ARGV[5...] their ids. Answers for each 'ok' | 'missing' | its state, where
-- it does not lie there.
local answers = {}
for at = 5, #ARGV do
  local id = ARGV[at]
  local state = of_job(id, 'state')
  if redis.call('ZREM', DEAD, id) == 1 then
    if state then emit(id, state, 'dropped') end
    answers[#answers + 1] = 'ok'
  else
    answers[#answers + 1] = state or 'missing'
  end
end
return answers
