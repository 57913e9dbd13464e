-- Leases outlast a server that was down: nobody could renew them meanwhile. Whoever notices first prolongs all, in
-- bounded passes.
--
-- ARGV: prefix, the server's run, milliseconds, until when (ms; 0: in the first pass), how many leases at most.
-- Answers: until when, for the next pass; 0: there is nothing to do, or no more.

local prefix, run = ARGV[1], ARGV[2]
local index, known = prefix .. 'kern.lease_index', prefix .. 'kern.server_run'
if redis.call('GET', known) == run then
  return 0
end
-- The first write is one that is not refused for want of memory: after it nothing is.
redis.call('SREM', prefix .. 'kern.started', '')
local soonest = tonumber(ARGV[4])
if soonest == 0 then
  local time = redis.call('TIME')
  soonest = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[3])
end
local found = redis.call('ZRANGEBYSCORE', index, '-inf', '(' .. soonest, 'LIMIT', 0, ARGV[5])
local prolonged = { index, 'XX' }
for _, receipt in ipairs(found) do
  prolonged[#prolonged + 1] = soonest
  prolonged[#prolonged + 1] = receipt
end
if #found > 0 then
  redis.call('ZADD', unpack(prolonged))
end
if #found < tonumber(ARGV[5]) then
  redis.call('SET', known, run)
  return 0
end
return soonest
