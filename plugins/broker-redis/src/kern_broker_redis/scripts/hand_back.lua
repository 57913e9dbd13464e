-- Hand the messages of leases back to their lists, the last to come next; stands on record.lua.
--
-- ARGV: prefix, whether also leases that have not expired ('1'); then of each lease its receipt, the key of its note, and
--       the note ('': none).
-- Answers: how many.

local prefix, everything = ARGV[1], ARGV[2] == '1'
local leases, index = prefix .. 'kern.leases', prefix .. 'kern.lease_index'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count = 0
for position = 3, #ARGV, 3 do
  local receipt, note = ARGV[position], ARGV[position + 2]
  local leased_until = redis.call('ZSCORE', index, receipt)
  if leased_until and (everything or tonumber(leased_until) <= now) then
    local record = redis.call('HGET', leases, receipt)
    local list, envelope
    if record then
      list, envelope = kern_parts(record)
    end
    if list and not kern_takes_messages(list) then
      -- Somebody has put something else there: look again in a minute. The first write is one that is never refused.
      redis.call('SREM', prefix .. 'kern.started', '')
      redis.call('ZADD', index, now + 60000, receipt)
    else
      -- First where it goes, then whence it came: scripts are not rolled back.
      redis.call('ZREM', index, receipt)
      if list then
        redis.call('RPUSH', list, envelope)
        count = count + 1
      end
      redis.call('HDEL', leases, receipt)
      redis.call('SREM', prefix .. 'kern.started', receipt)
      if list and note ~= '' then
        redis.call('HSET', prefix .. 'kern.notes', ARGV[position + 1], note)
      end
    end
  end
end
return count
