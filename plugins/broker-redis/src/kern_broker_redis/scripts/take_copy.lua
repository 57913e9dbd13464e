-- A copy of what was published to a fanout exchange, heard on its channel, goes to the list of one of its queues, unless
-- the publisher, or another consumer of the queue, has put it there; stands on deliver.lua.
--
-- ARGV: prefix, separator, queue, the copy's name, whether the queue lasts as long as its consumer ('1'), envelope.

kern_begin(ARGV[1], ARGV[2])
local list = ARGV[1] .. ARGV[3]
if kern_known(ARGV[4]) or kern_push(list, ARGV[6]) then return 0 end
kern_remember({ ARGV[4] })
if ARGV[5] == '1' then redis.call('PEXPIRE', list, 600000) end
return 1
