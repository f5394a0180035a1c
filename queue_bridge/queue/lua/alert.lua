-- Something that the operator is to be told by mail. ARGV[5] kind, [6] what it is about, [7] the sentence, [8] for how many
-- ms the same thing is not told again, whoever notices it. Answers 'ok' | 'told'.
if not redis.call('SET', TOLD .. ARGV[5] .. ':' .. ARGV[6], 1, 'NX', 'PX', ARGV[8]) then return 'told' end
add_mail(ARGV[5], ARGV[7])
return 'ok'
