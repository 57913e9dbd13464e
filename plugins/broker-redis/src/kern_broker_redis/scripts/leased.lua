-- The lists that leased messages are of; stands on record.lua. Only reads, and no more bytes than asked for.
--
-- ARGV: prefix, bytes, receipts.
-- Answers the list of each receipt in turn ('' for one that is none), as far as the bytes go.

local answer, bytes = {}, tonumber(ARGV[2])
for number = 3, #ARGV do
  local record = redis.call('HGET', ARGV[1] .. 'kern.leases', ARGV[number])
  answer[#answer + 1] = record and kern_parts(record) or ''
  bytes = bytes - (record and #record or 0)
  if bytes <= 0 then break end
end
return answer
