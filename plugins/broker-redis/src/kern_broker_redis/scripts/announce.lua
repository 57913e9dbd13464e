-- A worker says that it is there, and what it is. Workers that have been silent for an hour are forgotten.
--
-- ARGV: prefix, worker, facts.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local workers, facts = ARGV[1] .. 'kern.workers', ARGV[1] .. 'kern.worker_facts'
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', workers, '-inf', now - 3600000, 'LIMIT', 0, 100)) do
  redis.call('ZREM', workers, worker)
  redis.call('HDEL', facts, worker)
end
redis.call('ZADD', workers, now, ARGV[2])
redis.call('HSET', facts, ARGV[2], ARGV[3])
