-- An instance goes. ARGV[5] name, [6] boot id. Answers 1, or 0 when the name is another one's.
if redis.call('HGET', INSTANCE .. ARGV[5], 'boot') ~= ARGV[6] then return 0 end
forget_instance(ARGV[5])
return 1
