-- Messages to where they belong: lists, channels, the delay structure. Envelopes are opaque here.
--
-- One publication is nine arguments in a row: id ('' for none), exchange, exchange type, routing key, suffix of the list
-- (of a fanout: its channel), due in milliseconds since the epoch (0: now), tag, note ('' for none), envelope.

local kern_prefix, kern_separator, kern_now, kern_current, kern_previous, kern_outdated
local kern_routes = {}

-- Call it first, once. Answers the server's time in milliseconds.
local function kern_begin(prefix, separator)
  local time = redis.call('TIME')
  local minute = math.floor(time[1] / 60)
  kern_prefix, kern_separator = prefix, separator
  kern_now = time[1] * 1000 + math.floor(time[2] / 1000)
  kern_current = prefix .. 'kern.published.' .. minute % 3
  kern_previous = prefix .. 'kern.published.' .. (minute - 1) % 3
  kern_outdated = prefix .. 'kern.published.' .. (minute + 1) % 3
  return kern_now
end

-- What is known to be published ------------------------------------------------------------------------------------

local function kern_member(id, exchange, routing_key)
  if exchange == '' then return id .. '@' .. routing_key end
  return id .. '@' .. exchange .. '\6\22' .. routing_key
end

-- A set is looked at in its own minute and in the next, and its slot is used again in the one after that: it is gone by
-- then, by UNLINK from whoever writes in between, for a large set that expires by itself would hold up the server.
local function kern_remember(members)
  redis.call('SADD', kern_current, unpack(members))
  if redis.call('SCARD', kern_current) <= #members then
    redis.call('EXPIREAT', kern_current, (math.floor(kern_now / 60000) + 2) * 60 + 45)
    redis.call('UNLINK', kern_outdated)
  end
end

-- Whether the queue, and all that may hold messages of it without saying whose, is empty: what was published is gone,
-- by way of a worker that keeps no book of it, such as Celery's.
local function kern_gone(queue, suffix)
  return redis.call('LLEN', kern_prefix .. queue .. suffix) == 0
    and redis.call('HLEN', kern_prefix .. 'kern.leases') == 0
    and redis.call('HLEN', kern_prefix .. 'unacked') == 0
    and redis.call('ZCARD', kern_prefix .. 'kern.delayed.' .. queue) == 0
end

local function kern_known(member)
  return redis.call('SISMEMBER', kern_current, member) == 1 or redis.call('SISMEMBER', kern_previous, member) == 1
end

-- Forget that these were published: they have left the broker.
local function kern_forget(members)
  for slot = 0, 2 do
    local published = kern_prefix .. 'kern.published.' .. slot
    if redis.call('EXISTS', published) == 1 then redis.call('SREM', published, unpack(members)) end
  end
end

-- Routing ----------------------------------------------------------------------------------------------------------

local function kern_words(text)
  local words = {}
  if text ~= '' then
    for word in string.gmatch(text .. '.', '([^.]*)%.') do words[#words + 1] = word end
  end
  return words
end

-- '*' is one word, '#' any number of words, also none.
local function kern_topic(pattern, words)
  local at, word, hash, mark = 1, 1, nil, nil
  while word <= #words do
    if pattern[at] == '#' then
      hash, mark, at = at, word, at + 1
    elseif pattern[at] ~= nil and (pattern[at] == '*' or pattern[at] == words[word]) then
      at, word = at + 1, word + 1
    elseif hash then
      mark = mark + 1
      at, word = hash + 1, mark
    else
      return false
    end
  end
  while pattern[at] == '#' do at = at + 1 end
  return at > #pattern
end

-- Names of the queues bound to the exchange under a key that meets the routing key, each once.
local function kern_bound(exchange, exchange_type, routing_key)
  local members = redis.pcall('SMEMBERS', kern_prefix .. '_kombu.binding.' .. exchange)
  if members.err then return nil, 'WRONGTYPE the bindings of exchange ' .. exchange .. ' are no set' end
  local words = exchange_type == 'topic' and kern_words(routing_key)
  local queues, seen = {}, {}
  for _, member in ipairs(members) do
    local first, key_end = string.find(member, kern_separator, 1, true)
    local second, pattern_end
    if first then second, pattern_end = string.find(member, kern_separator, key_end + 1, true) end
    if second then
      local key, queue = string.sub(member, 1, first - 1), string.sub(member, pattern_end + 1)
      local meets = words and kern_topic(kern_words(key), words) or (not words and key == routing_key)
      if meets and not seen[queue] then
        seen[queue] = true
        queues[#queues + 1] = queue
      end
    end
  end
  return queues
end

local function kern_find_route(exchange, exchange_type, routing_key, suffix)
  if exchange ~= '' and exchange_type == 'fanout' then
    -- Queues that kern's workers consume; other subscribers are reached by the channel alone.
    local queues = redis.pcall('ZRANGEBYSCORE', kern_prefix .. 'kern.fanout.' .. exchange, kern_now - 60000, '+inf')
    if queues.err then return nil, queues.err end
    return queues
  end
  local queues, problem = { routing_key }, nil
  if exchange ~= '' then
    queues, problem = kern_bound(exchange, exchange_type, routing_key)
    if not queues then return nil, problem end
  end
  if #queues == 0 or queues[1] == '' then return nil, 'UNROUTABLE' end
  for _, queue in ipairs(queues) do
    local found = redis.call('TYPE', kern_prefix .. queue .. suffix).ok
    if found ~= 'list' and found ~= 'none' then
      return nil, 'WRONGTYPE the key of queue ' .. queue .. ' is a ' .. found .. ', not a list'
    end
  end
  return queues
end

-- The queues of a route, or nil and why there are none: 'UNROUTABLE', or 'WRONGTYPE ...'. Only reads.
local function kern_route(exchange, exchange_type, routing_key, suffix)
  local name = exchange .. '\0' .. exchange_type .. '\0' .. routing_key .. '\0' .. suffix
  local known = kern_routes[name]
  if not known then
    local queues, problem = kern_find_route(exchange, exchange_type, routing_key, suffix)
    known = { queues, problem }
    kern_routes[name] = known
  end
  return known[1], known[2]
end

-- Sending ----------------------------------------------------------------------------------------------------------

-- Until it is due. Whoever waits for an earlier time is woken. *record*: what is kept (record.lua), if that is known.
local function kern_delay(queue, suffix, due, entry, envelope, record)
  local delayed, list = kern_prefix .. 'kern.delayed.' .. queue, kern_prefix .. queue .. suffix
  local added = redis.pcall('ZADD', delayed, due, entry)
  if type(added) == 'table' and added.err then return added.err end
  record = record or #list .. ':' .. list .. envelope
  redis.call('HSET', kern_prefix .. 'kern.delayed_messages.' .. queue, entry, record)
  if redis.call('ZRANGE', delayed, 0, 0)[1] == entry then
    for _, worker in ipairs(redis.call('ZRANGE', kern_prefix .. 'kern.sentries.' .. queue, 0, -1)) do
      redis.call('PUBLISH', kern_prefix .. 'kern.ring.' .. worker, '')
    end
  end
  return nil
end

local function kern_push(list, envelope)
  local pushed = redis.pcall('LPUSH', list, envelope)
  return type(pushed) == 'table' and pushed.err or nil
end

-- To the lists of kern's consumers, and to whoever else listens: how many received it. A consumer of ours hears it on the
-- channel, too, and finds here that it has it.
local function kern_fan_out(queues, exchange, channel, tag, envelope)
  local copies = {}
  for number, queue in ipairs(queues) do
    local problem = kern_push(kern_prefix .. queue, envelope)
    if problem then return 0, problem end
    -- Copies for a queue that lasts as long as its consumer must not outlive him for long; his beats prolong this.
    if redis.call('ZSCORE', kern_prefix .. 'kern.fanout.' .. exchange, queue) ~= 'inf' then
      redis.call('PEXPIRE', kern_prefix .. queue, 600000)
    end
    copies[number] = tag .. '@' .. queue
  end
  if #copies > 0 then kern_remember(copies) end
  return #queues + redis.call('PUBLISH', channel, envelope)
end

-- The nine arguments from *at* on: 1 sent, 0 was there already, -1 and why not.
local function kern_send(argv, at)
  local id, exchange, exchange_type, routing_key, suffix = argv[at], argv[at + 1], argv[at + 2], argv[at + 3], argv[at + 4]
  local due, tag, note, envelope = tonumber(argv[at + 5]), argv[at + 6], argv[at + 7], argv[at + 8]
  local queues, problem = kern_route(exchange, exchange_type, routing_key, suffix)
  if not queues then return -1, problem end
  local member = id ~= '' and kern_member(id, exchange, routing_key)
  if member and kern_known(member) and not (exchange == '' and kern_gone(routing_key, suffix)) then return 0 end
  if exchange ~= '' and exchange_type == 'fanout' then
    local count
    count, problem = kern_fan_out(queues, exchange, suffix, tag, envelope)
    if not problem and count == 0 then problem = 'UNROUTABLE' end
  else
    for _, queue in ipairs(queues) do
      if due > kern_now then
        problem = kern_delay(queue, suffix, due, tag, envelope)
      else
        problem = kern_push(kern_prefix .. queue .. suffix, envelope)
      end
      if problem then break end
    end
  end
  if problem then return -1, problem end
  if member then kern_remember({ member }) end
  if id ~= '' and note ~= '' then redis.call('HSET', kern_prefix .. 'kern.notes', id, note) end
  return 1
end
