-- Lease messages; stands on record.lua and waiting.lua.
--
-- KEYS: the lists of each queue by priority step, queue by queue.
-- ARGV: prefix, owner, base of the receipts, milliseconds of the lease, most messages, byte budget, turn, steps,
--       whether the owner waits if there is nothing ('1'), whether it waits now ('1'); then of each queue its name and
--       how many messages at most.
-- Answers: now (ms), when the next delayed message is due (ms; -1: none), length of kern.notes, queues the owner is a
--          sentry of, lists that are none, whether leases have expired (1 or 0; only told to sentries), then of each
--          message its list and its envelope. Queues and lists by number.

local MOVED, MOVED_BYTES = 200, 262144
local CHUNK = 64

local prefix, owner, base = ARGV[1], ARGV[2], tonumber(ARGV[3])
local limit, budget, turn, steps = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local waits, waiting = ARGV[9] == '1', ARGV[10] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- As text: each number given to a command would be written down anew.
local leased_until = string.format('%.0f', now + tonumber(ARGV[4]))
local queues = #KEYS / steps
local names, most = {}, {}
for queue = 1, queues do
  names[queue] = ARGV[9 + 2 * queue]
  most[queue] = tonumber(ARGV[10 + 2 * queue])
end

-- Delayed messages that are due go to the end of their lists; a bounded number of them.
local function move_due(queue, moves, bytes)
  local index, store = prefix .. 'kern.delayed.' .. queue, prefix .. 'kern.delayed_messages.' .. queue
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', now, 'LIMIT', 0, moves)) do
    local record = redis.call('HGET', store, entry)
    local list, envelope
    if record then
      list, envelope = kern_parts(record)
      if not kern_takes_messages(list) then
        return 0, bytes
      end
    end
    redis.call('ZREM', index, entry)
    redis.call('HDEL', store, entry)
    moves = moves - 1
    if record then
      redis.call('LPUSH', list, envelope)
      bytes = bytes - #envelope
      if bytes <= 0 then
        return moves, bytes
      end
    end
  end
  return moves, bytes
end

local moves, bytes = MOVED, MOVED_BYTES
local due_of = {}
for queue = 1, queues do
  local index = prefix .. 'kern.delayed.' .. names[queue]
  local first = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')
  if first[1] and tonumber(first[2]) <= now and moves > 0 and bytes > 0 then
    moves, bytes = move_due(names[queue], moves, bytes)
    first = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')
  end
  if first[1] then
    due_of[queue] = tonumber(first[2])
  end
end

-- Bytes of the body: of an envelope as Celery and kern write it, by its length, without reading it.
local function size_of(envelope)
  if string.sub(envelope, 1, 8) == '{"body":' then
    local start = string.find(envelope, '"', 9, true)
    local stop = start and string.find(envelope, '"', start + 1, true)
    if stop and string.byte(envelope, stop - 1) ~= 92 then
      return math.floor((stop - start - 1) * 3 / 4)
    end
  end
  return #envelope
end

local leases, index = prefix .. 'kern.leases', prefix .. 'kern.lease_index'
-- Scripts are not rolled back: what is popped must have somewhere to go, and the answer nothing to stumble over.
local function holds_something_else(command, key)
  return type(redis.pcall(command, key)) == 'table'
end
for _, key in ipairs({ leases, prefix .. 'kern.notes' }) do
  if holds_something_else('HLEN', key) then
    return redis.error_reply('WRONGTYPE the key ' .. key .. ' is no hash')
  end
end
if holds_something_else('ZCARD', index) then
  return redis.error_reply('WRONGTYPE the key ' .. index .. ' is no sorted set')
end
-- Large messages that have just been moved were work enough for one call.
local moved_enough = bytes <= 0
local taken, used, chunk, full = 0, 0, 1, moved_enough
local messages, broken = {}, {}

-- Lease up to `count` messages of a list; how many there were.
local function take(number, count)
  local key = KEYS[number]
  local popped = redis.pcall('RPOP', key, count)
  if not popped then
    return 0
  end
  if popped.err then
    broken[#broken + 1] = number
    return 0
  end
  local head = #key .. ':' .. key
  local records, untils = { leases }, { index }
  local found = #popped
  for position = 1, found do
    local envelope = popped[position]
    local size = size_of(envelope)
    if taken > 0 and used + size > budget then
      -- What is too much goes back to where it was.
      local back = { key }
      for other = found, position, -1 do
        back[#back + 1] = popped[other]
      end
      redis.call('RPUSH', unpack(back))
      full = true
      break
    end
    taken, used = taken + 1, used + size
    local receipt = owner .. ':' .. (base + taken)
    records[#records + 1] = receipt
    records[#records + 1] = head .. envelope
    untils[#untils + 1] = leased_until
    untils[#untils + 1] = receipt
    messages[#messages + 1] = number
    messages[#messages + 1] = envelope
  end
  if #records > 1 then
    redis.call('HSET', unpack(records))
    redis.call('ZADD', unpack(untils))
  end
  return found
end

for step = 1, steps do
  local live = {}
  for offset = 0, queues - 1 do
    local queue = (turn + offset) % queues + 1
    if most[queue] > 0 then
      live[#live + 1] = queue
    end
  end
  while #live > 0 and taken < limit and not full do
    local more = {}
    local share = math.ceil((limit - taken) / #live)
    for _, queue in ipairs(live) do
      if taken >= limit or full then
        break
      end
      -- Small chunks first: how large the messages are is not known before.
      local count = math.min(share, most[queue], limit - taken, chunk)
      local before = taken
      if take((queue - 1) * steps + step, count) == count then
        more[#more + 1] = queue
      end
      most[queue] = most[queue] - (taken - before)
      if used >= budget then
        full = true
      elseif taken > 0 then
        chunk = math.max(1, math.min(CHUNK, chunk * 8, math.floor((budget - used) / (used / taken + 1)) + 1))
      end
    end
    live = {}
    for _, queue in ipairs(more) do
      if most[queue] > 0 then
        live[#live + 1] = queue
      end
    end
  end
end

local sentry_of, next_due = {}, -1
if taken == 0 and waits then
  for queue = 1, queues do
    if kern_wait(prefix, names[queue], owner, now) then
      sentry_of[#sentry_of + 1] = queue
      -- One who sleeps until then is enough.
      if due_of[queue] and (next_due < 0 or due_of[queue] < next_due) then
        next_due = due_of[queue]
      end
    end
  end
else
  for queue = 1, queues do
    if due_of[queue] and (next_due < 0 or due_of[queue] < next_due) then
      next_due = due_of[queue]
    end
  end
end
if moved_enough then
  next_due = now
end
if taken > 0 then
  for queue = 1, queues do
    if waiting then
      kern_leave(prefix, names[queue], owner, now)
    end
    -- There is more than was taken: the next ones, please, who then do the same.
    if redis.call('EXISTS', prefix .. 'kern.idle.' .. names[queue]) == 1 then
      local left = 0
      for step = 1, steps do
        local length = redis.pcall('LLEN', KEYS[(queue - 1) * steps + step])
        if type(length) == 'number' then
          left = left + length
        end
      end
      if left > 0 then
        kern_ring_idle(prefix, names[queue], math.min(2, left), now)
      end
    end
  end
end

local expired = 0
if #sentry_of > 0 then
  local first = redis.call('ZRANGE', index, 0, 0, 'WITHSCORES')
  if first[1] and tonumber(first[2]) <= now then
    expired = 1
  end
end
local answer = { now, next_due, redis.call('HLEN', prefix .. 'kern.notes'), sentry_of, broken, expired }
for position = 1, #messages do
  answer[position + 6] = messages[position]
end
return answer
