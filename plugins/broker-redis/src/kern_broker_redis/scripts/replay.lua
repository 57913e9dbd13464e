-- A message leaves quarantine for its list, the very bytes, to come after what waits there; stands on deliver.lua.
--
-- ARGV: prefix, separator, key, list, what kern.published remembers of it ('' for none), length of what stands before
--       the envelope.
-- Answers 1, 0 if it is not there (any more), -1 if a message of its id is on its way, or why it cannot go.

kern_begin(ARGV[1], ARGV[2])
local quarantine, key, list = ARGV[1] .. 'kern.quarantine', ARGV[3], ARGV[4]
local value = redis.call('HGET', quarantine, key)
if not value then return 0 end
if ARGV[5] ~= '' and kern_known(ARGV[5]) then return -1 end
local length = redis.pcall('LLEN', list)
if type(length) ~= 'number' then return length end
-- The first write is one that is not refused for want of memory: after it nothing is.
redis.call('ZREM', ARGV[1] .. 'kern.quarantine_index', key)
-- And where it goes before whence it came: scripts are not rolled back.
redis.call('LPUSH', list, string.sub(value, ARGV[6] + 1))
redis.call('HDEL', quarantine, key)
redis.call('INCRBY', ARGV[1] .. 'kern.quarantine_bytes', -#value)
if redis.call('HINCRBY', ARGV[1] .. 'kern.quarantine_counts', list, -1) <= 0 then
  redis.call('HDEL', ARGV[1] .. 'kern.quarantine_counts', list)
end
if ARGV[5] ~= '' then kern_remember({ ARGV[5] }) end
return 1
