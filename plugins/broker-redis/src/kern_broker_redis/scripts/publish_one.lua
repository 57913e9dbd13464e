-- Publish one message to one list: what publish.lua does, for the call that is made most.
--
-- KEYS: the list. ARGV: prefix, what kern.published remembers of the message, the name of this saying, the name of one
--       that is too old to be said again, envelope.
-- Answers 1 (sent) or 0 (it may be there already: publish.lua looks closer).

local minute = math.floor(redis.call('TIME')[1] / 60)
local published = ARGV[1] .. 'kern.published.'
local current = published .. minute % 3
if redis.call('SADD', current, ARGV[2], ARGV[3]) < 2
  or redis.call('SISMEMBER', published .. (minute - 1) % 3, ARGV[2]) == 1 then
  redis.call('SREM', current, ARGV[3])
  return 0
end
local pushed = redis.pcall('LPUSH', KEYS[1], ARGV[5])
if type(pushed) == 'table' and pushed.err then
  redis.call('SREM', current, ARGV[2], ARGV[3])
  return pushed
end
redis.call('SREM', current, ARGV[4])
if redis.call('SCARD', current) <= 2 then
  redis.call('EXPIREAT', current, (minute + 2) * 60 + 45)
  redis.call('UNLINK', published .. (minute + 1) % 3)
end
return 1
