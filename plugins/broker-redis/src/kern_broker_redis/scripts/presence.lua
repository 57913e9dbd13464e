-- Workers that have given a sign of life lately: of each its id, its last beat (ms), its facts. Only reads.
--
-- ARGV: prefix, milliseconds.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local alive = redis.call('ZRANGEBYSCORE', ARGV[1] .. 'kern.workers', now - ARGV[2], '+inf', 'WITHSCORES')
local answer = {}
for at = 1, #alive, 2 do
  answer[#answer + 1] = alive[at]
  answer[#answer + 1] = alive[at + 1]
  answer[#answer + 1] = redis.call('HGET', ARGV[1] .. 'kern.worker_facts', alive[at]) or ''
end
return answer
