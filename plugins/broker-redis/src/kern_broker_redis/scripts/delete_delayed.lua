-- Delete delayed messages of a queue; how many were still there.
--
-- ARGV: prefix, queue, entries.

local count = redis.call('ZREM', ARGV[1] .. 'kern.delayed.' .. ARGV[2], unpack(ARGV, 3))
redis.call('HDEL', ARGV[1] .. 'kern.delayed_messages.' .. ARGV[2], unpack(ARGV, 3))
return count
