-- Leases that have expired, the latest first, so that the oldest go back last and come next; a bounded number of them.
-- Only reads.
--
-- ARGV: prefix, whether also those that have not expired ('1'), how many at most, and how many bytes.
-- Answers: of each lease its receipt, whether it has expired, whether its task had started (1 or 0), and its record.

local prefix = ARGV[1]
local index = prefix .. 'kern.lease_index'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = ARGV[2] == '1' and '+inf' or now
local found = redis.call('ZREVRANGEBYSCORE', index, last, '-inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
local answer, bytes = {}, tonumber(ARGV[4])
for position = 1, #found, 2 do
  local receipt = found[position]
  local record = redis.call('HGET', prefix .. 'kern.leases', receipt) or ''
  answer[#answer + 1] = receipt
  answer[#answer + 1] = tonumber(found[position + 1]) <= now and 1 or 0
  answer[#answer + 1] = redis.call('SISMEMBER', prefix .. 'kern.started', receipt)
  answer[#answer + 1] = record
  bytes = bytes - #record
  if bytes <= 0 then
    break
  end
end
return answer
