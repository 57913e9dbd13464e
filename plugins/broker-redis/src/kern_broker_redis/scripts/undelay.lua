-- Put delayed messages of a queue at the end of their lists, before they are due; stands on record.lua.
--
-- ARGV: prefix, queue; then of each entry its name, the key of its note ('': none), and the note ('': none any more).
-- Answers: how many.

local prefix = ARGV[1]
local index, store = prefix .. 'kern.delayed.' .. ARGV[2], prefix .. 'kern.delayed_messages.' .. ARGV[2]
local count = 0
for position = 3, #ARGV, 3 do
  local record = redis.call('ZSCORE', index, ARGV[position]) and redis.call('HGET', store, ARGV[position])
  if record then
    local list, envelope = kern_parts(record)
    if kern_takes_messages(list) then
      redis.call('ZREM', index, ARGV[position])
      redis.call('LPUSH', list, envelope)
      redis.call('HDEL', store, ARGV[position])
      if ARGV[position + 2] ~= '' then
        redis.call('HSET', prefix .. 'kern.notes', ARGV[position + 1], ARGV[position + 2])
      elseif ARGV[position + 1] ~= '' then
        redis.call('HDEL', prefix .. 'kern.notes', ARGV[position + 1])
      end
      count = count + 1
    end
  end
end
return count
