-- How much is in queues: of each ready, delayed, and in quarantine. Only reads. What is due is ready.
--
-- KEYS: the lists of each queue by priority step, queue by queue. ARGV: prefix, steps, names of the queues.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local steps, answer = tonumber(ARGV[2]), {}
for number = 1, #ARGV - 2 do
  local queue, ready, kept = ARGV[number + 2], 0, 0
  for step = 1, steps do
    local list = KEYS[(number - 1) * steps + step]
    local length = redis.pcall('LLEN', list)
    if type(length) == 'number' then ready = ready + length end
    kept = kept + (redis.call('HGET', ARGV[1] .. 'kern.quarantine_counts', list) or 0)
  end
  local delayed = ARGV[1] .. 'kern.delayed.' .. queue
  local due = redis.call('ZCOUNT', delayed, '-inf', now)
  answer[#answer + 1] = ready + due
  answer[#answer + 1] = redis.call('ZCARD', delayed) - due
  answer[#answer + 1] = kept
end
return answer
