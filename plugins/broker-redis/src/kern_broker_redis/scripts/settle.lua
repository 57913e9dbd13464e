-- End leases; stands on deliver.lua, record.lua and plans.lua.
--
-- ARGV: prefix, separator of binding tables, bytes that quarantine may hold, number of the database, number of items;
--   then the items:
--   receipt, key of its note, member of kern.published ('' : none), number of arguments of its plan, number of
--   publications, how it ends; what that needs; the plan; the publications, nine arguments each (deliver.lua).
-- Ends:
--   R                                        released
--   T  list, queue, suffix, due (ms), envelope    another message takes its place
--   G  queue, suffix, due (ms; 0: at once), note  given back, the note as it is ('='), gone ('-'), or replaced
--   Q  key, head                             quarantine
-- Answers for each item: 1 done, 2 done but the stored result kept, 0 fenced, or what kept all of it from being written:
-- an error as text, or the answer of its plan.

local prefix = ARGV[1]
local quota, home, count = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local now = kern_begin(prefix, ARGV[2])
local leases, index, notes = prefix .. 'kern.leases', prefix .. 'kern.lease_index', prefix .. 'kern.notes'
local arguments_of = { R = 0, T = 5, G = 4, Q = 2 }

-- Where each item begins, and whose lease is still there.
local starts, receipts, position = {}, { 'ZMSCORE', index }, 6
for item = 1, count do
  starts[item] = position
  receipts[item + 2] = ARGV[position]
  position = position + 6 + arguments_of[ARGV[position + 5]] + ARGV[position + 3] + 9 * ARGV[position + 4]
end
local held = redis.call(unpack(receipts))
local seen, members = {}, {}
for item = 1, count do
  local at = starts[item]
  local receipt = ARGV[at]
  if held[item] and not seen[receipt] then
    seen[receipt] = true
    local how = ARGV[at + 5]
    if ARGV[at + 2] ~= '' and (how == 'R' or how == 'Q') then
      members[#members + 1] = ARGV[at + 2]
    end
  else
    held[item] = false
  end
end

-- The first write is one that is not refused for want of memory: after it nothing is, so that workers go on. What leaves
-- is forgotten before what follows is sent, which may have its id.
local started = prefix .. 'kern.started'
redis.call('SREM', started, '')
if redis.call('EXISTS', started) == 1 then
  redis.call('SREM', started, unpack(receipts, 3))
end
if #members > 0 then
  kern_forget(members)
end

-- Why the publications from `at` on cannot be sent; nil if they can.
local function refusal(at, number)
  for publication = 1, number do
    local queues, problem = kern_route(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
    if not queues then
      return problem .. ' ' .. publication
    end
    at = at + 9
  end
  return nil
end

local answers, ended, noted, given_back = {}, {}, {}, {}

-- Why the message cannot end like this; nil if it can, and what is kept of it if that is needed. Only reads.
local function obstacle(at, how)
  if how == 'R' then
    return nil
  end
  if how == 'T' then
    local list = ARGV[at + 6]
    return not kern_takes_messages(list) and 'WRONGTYPE the key ' .. list .. ' is no list' or nil
  end
  local record = redis.call('HGET', leases, ARGV[at])
  if not record then
    return 'ERR the lease has lost its message'
  end
  if how == 'Q' then
    local kept = tonumber(redis.call('GET', prefix .. 'kern.quarantine_bytes') or 0)
    return kept + #record > quota and 'QUOTA ' .. kept or nil, record
  end
  local list = kern_list(record)
  return not kern_takes_messages(list) and 'WRONGTYPE the key ' .. list .. ' is no list' or nil, record
end

-- Another message takes its place.
local function replace(at)
  local due = tonumber(ARGV[at + 9])
  if due > now then
    kern_delay(ARGV[at + 7], ARGV[at + 8], due, ARGV[at], ARGV[at + 10])
  else
    kern_push(ARGV[at + 6], ARGV[at + 10])
  end
  noted[#noted + 1] = ARGV[at + 1]
end

local function give_back(at, record)
  local due, note = tonumber(ARGV[at + 8]), ARGV[at + 9]
  if due > 0 then
    kern_delay(ARGV[at + 6], ARGV[at + 7], due, ARGV[at], nil, record)
  else
    given_back[#given_back + 1] = { kern_parts(record) }
  end
  if note == '-' then
    noted[#noted + 1] = ARGV[at + 1]
  elseif note ~= '=' then
    redis.call('HSET', notes, ARGV[at + 1], note)
  end
end

local function put_aside(at, record)
  local quarantine, key, copy = prefix .. 'kern.quarantine', ARGV[at + 6], 1
  -- An earlier message of the same name stays.
  while redis.call('HEXISTS', quarantine, key) == 1 do
    copy = copy + 1
    key = ARGV[at + 6] .. ':' .. copy
  end
  local list, start = kern_list(record)
  local value = ARGV[at + 7] .. '\n' .. string.sub(record, start)
  redis.call('HSET', quarantine, key, value)
  redis.call('ZADD', prefix .. 'kern.quarantine_index', now, key)
  redis.pcall('INCRBY', prefix .. 'kern.quarantine_bytes', #value)
  redis.pcall('HINCRBY', prefix .. 'kern.quarantine_counts', list, 1)
  noted[#noted + 1] = ARGV[at + 1]
end

for item = 1, count do
  local at = starts[item]
  local how, plan, publications = ARGV[at + 5], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local plan_at = at + 6 + arguments_of[how]
  local answer, record = 0, nil
  if held[item] then
    answer = 1
    if how ~= 'R' or publications > 0 then
      local problem
      problem, record = obstacle(at, how)
      answer = problem or refusal(plan_at + plan, publications) or 1
    end
    if answer == 1 and plan > 0 then
      local _, written = kern_plan(ARGV, plan_at, home)
      if written == 0 then
        answer = 2
      elseif written ~= 1 then
        answer = written
      end
    end
    if type(answer) == 'number' then
      if how == 'T' then
        replace(at)
      elseif how == 'G' then
        give_back(at, record)
      elseif how == 'Q' then
        put_aside(at, record)
      end
      for publication = 0, publications - 1 do
        kern_send(ARGV, plan_at + plan + 9 * publication)
      end
      ended[#ended + 1] = ARGV[at]
      if how == 'R' then
        noted[#noted + 1] = ARGV[at + 1]
      end
    end
  end
  answers[item] = answer
end

-- Those that come next come first: they go back in the opposite order.
for number = #given_back, 1, -1 do
  redis.call('RPUSH', given_back[number][1], given_back[number][2])
end
if #ended > 0 then
  redis.call('ZREM', index, unpack(ended))
  redis.call('HDEL', leases, unpack(ended))
end
if #noted > 0 and redis.call('EXISTS', notes) == 1 then
  redis.call('HDEL', notes, unpack(noted))
end
return answers
