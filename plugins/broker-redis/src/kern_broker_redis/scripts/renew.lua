-- Prolong leases, and say that their owner lives.
--
-- ARGV: prefix, owner, milliseconds, receipts.
-- Answers: now (ms), whether presence knows the owner (1 or 0), numbers of the receipts that are leases no more.

local prefix, owner = ARGV[1], ARGV[2]
local index, workers = prefix .. 'kern.lease_index', prefix .. 'kern.workers'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- The first write is one that is not refused for want of memory: after it nothing is.
redis.call('SREM', prefix .. 'kern.started', '')
local answer = { now, 0 }
if redis.call('ZSCORE', workers, owner) then
  redis.call('ZADD', workers, now, owner)
  answer[2] = 1
end
if #ARGV > 3 then
  local held = redis.call('ZMSCORE', index, unpack(ARGV, 4))
  local prolonged, leased_until = { index, 'XX' }, string.format('%.0f', now + tonumber(ARGV[3]))
  for number = 1, #ARGV - 3 do
    if held[number] then
      prolonged[#prolonged + 1] = leased_until
      prolonged[#prolonged + 1] = ARGV[number + 3]
    else
      answer[#answer + 1] = number
    end
  end
  if #prolonged > 2 then
    redis.call('ZADD', unpack(prolonged))
  end
end
return answer
