-- An instance has died, as the process that kept its lease has seen. ARGV[5] name, [6] boot id.
-- Answers how many jobs that frees.
if redis.call('HGET', INSTANCE .. ARGV[5], 'boot') == ARGV[6] then forget_instance(ARGV[5]) end
return bury(ARGV[5], ARGV[6])
