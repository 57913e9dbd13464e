-- Note that the tasks of leases have started.
--
-- ARGV: prefix, receipts.

local prefix = ARGV[1]
-- The first write is one that is not refused for want of memory: after it nothing is.
redis.call('SREM', prefix .. 'kern.started', '')
local held = redis.call('ZMSCORE', prefix .. 'kern.lease_index', unpack(ARGV, 2))
for number = 1, #ARGV - 1 do
  if held[number] then
    redis.call('SADD', prefix .. 'kern.started', ARGV[number + 1])
  end
end
