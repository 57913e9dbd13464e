-- A worker waits for nothing any more, because it stops; stands on waiting.lua.
--
-- ARGV: prefix, owner, queues.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for number = 3, #ARGV do
  kern_leave(ARGV[1], ARGV[number], ARGV[2], now)
end
