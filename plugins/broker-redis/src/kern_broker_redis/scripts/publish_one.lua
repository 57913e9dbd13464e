-- Publish one message to one list: what publish.lua does, for the call that is made most.
--
-- KEYS: the list. ARGV: prefix, what kern.published remembers of it, envelope.
-- Answers 1 (sent) or 0 (it may be there already: publish.lua looks closer).

local minute = math.floor(redis.call('TIME')[1] / 60)
local published = ARGV[1] .. 'kern.published.'
local current = published .. minute % 3
if redis.call('SADD', current, ARGV[2]) == 0
  or redis.call('SISMEMBER', published .. (minute - 1) % 3, ARGV[2]) == 1 then
  return 0
end
local pushed = redis.pcall('LPUSH', KEYS[1], ARGV[3])
if type(pushed) == 'table' and pushed.err then
  redis.call('SREM', current, ARGV[2])
  return pushed
end
if redis.call('SCARD', current) == 1 then
  redis.call('EXPIREAT', current, (minute + 2) * 60 + 45)
  redis.call('UNLINK', published .. (minute + 1) % 3)
end
return 1
