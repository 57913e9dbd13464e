-- Say that queues of fanout exchanges are consumed: what is published there goes to their lists, too.
--
-- ARGV: prefix; then of each its exchange, its name, and whether it lasts as long as its consumer ('1').

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 2, #ARGV, 3 do
  local transient = ARGV[at + 2] == '1'
  redis.call('ZADD', ARGV[1] .. 'kern.fanout.' .. ARGV[at], transient and now or '+inf', ARGV[at + 1])
  if transient then redis.call('PEXPIRE', ARGV[1] .. ARGV[at + 1], 600000) end
end
