-- Take all that is ready or delayed in a queue out of reach, in one step; somebody looks through it and deletes it.
--
-- KEYS: the queue's lists. ARGV: prefix, queue, token.
-- Answers how many messages, then the keys they are under now, lists before the hash of what was delayed.

local count, aside = 0, {}
for _, list in ipairs(KEYS) do
  local length = redis.pcall('LLEN', list)
  if type(length) == 'number' and length > 0 then
    local name = ARGV[1] .. 'kern.purged.' .. ARGV[3] .. '.' .. #aside
    redis.call('RENAME', list, name)
    redis.call('EXPIRE', name, 600)
    aside[#aside + 1] = name
    count = count + length
  end
end
local delayed, messages = ARGV[1] .. 'kern.delayed.' .. ARGV[2], ARGV[1] .. 'kern.delayed_messages.' .. ARGV[2]
count = count + redis.call('ZCARD', delayed)
redis.call('UNLINK', delayed)
if redis.call('EXISTS', messages) == 1 then
  local name = ARGV[1] .. 'kern.purged.' .. ARGV[3] .. '.delayed'
  redis.call('RENAME', messages, name)
  redis.call('EXPIRE', name, 600)
  aside[#aside + 1] = name
end
table.insert(aside, 1, count)
return aside
