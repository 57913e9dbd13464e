-- A message leaves quarantine for good.
--
-- ARGV: prefix, key, list.
-- Answers 1, or 0 if it is not there (any more).

local quarantine = ARGV[1] .. 'kern.quarantine'
local length = redis.call('HSTRLEN', quarantine, ARGV[2])
if redis.call('HDEL', quarantine, ARGV[2]) == 0 then return 0 end
redis.call('ZREM', ARGV[1] .. 'kern.quarantine_index', ARGV[2])
redis.call('INCRBY', ARGV[1] .. 'kern.quarantine_bytes', -length)
if redis.call('HINCRBY', ARGV[1] .. 'kern.quarantine_counts', ARGV[3], -1) <= 0 then
  redis.call('HDEL', ARGV[1] .. 'kern.quarantine_counts', ARGV[3])
end
return 1
