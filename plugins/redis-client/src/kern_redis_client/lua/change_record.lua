-- Changes one record, if it is as expected. A record is the string '<version>:<expires, ms>:<value>', with the life of its
-- key; an index of all names gives them in order, another knows when which expires, so that names do not pile up.
--
-- KEYS  record, index (sorted set of names), expiries (sorted set of names by ms)
-- ARGV  what: put | add | swap | expire | delete
--       name
--       new version
--       version expected ('' any)
--       life in ms ('' for ever)
--       value
--       channel on which watchers listen
--       start of the keys of records of this kind
-- Answers {1 done | 0 not, ms at which it expires or ''}.
local record, index, expiries = KEYS[1], KEYS[2], KEYS[3]
local what, name, version, expected, life, value, channel = unpack(ARGV, 1, 7)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('GET', record)
local held_version = held and string.match(held, '^(%d+):') or ''

-- A few names of records that have expired go with each change; in its last millisecond a record is still there.
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', expiries, '-inf', string.format('(%.0f', now), 'LIMIT', 0, 8)) do
  redis.call('ZREM', expiries, gone)
  if redis.call('EXISTS', ARGV[8] .. gone) == 0 then
    redis.call('ZREM', index, gone)
  end
end

local said_before = held and held_version == version
if what == 'add' and held and not said_before then return {0, ''} end
if what == 'swap' and held_version ~= expected and not said_before then return {0, ''} end
if (what == 'expire' or what == 'delete') and not held then return {0, ''} end
if what == 'delete' and expected ~= '' and held_version ~= expected then return {0, ''} end

if what == 'delete' then
  redis.call('DEL', record)
  redis.call('ZREM', index, name)
  redis.call('ZREM', expiries, name)
  redis.call('PUBLISH', channel, '0:' .. name)
  return {1, ''}
end

if what == 'expire' then
  version = held_version
  value = string.match(held, '^%d+:%d*:(.*)$')
end
local until_ms = ''
if life ~= '' then
  until_ms = string.format('%.0f', now + tonumber(life))
  redis.call('SET', record, version .. ':' .. until_ms .. ':' .. value, 'PXAT', until_ms)
  redis.call('ZADD', expiries, until_ms, name)
else
  redis.call('SET', record, version .. '::' .. value)
  redis.call('ZREM', expiries, name)
end
redis.call('ZADD', index, 0, name)
if what ~= 'expire' then
  redis.call('PUBLISH', channel, version .. ':' .. name)
end
return {1, until_ms}
