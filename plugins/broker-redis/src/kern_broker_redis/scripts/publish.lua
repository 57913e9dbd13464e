-- Publish: groups of messages for one list each, then single publications as deliver.lua takes them.
--
-- ARGV: prefix, separator, the name of this saying, whether it may have been said before ('1'), the name of one that is
-- too old to be said again, number of groups; each group is routing key, suffix, count, and then id and envelope of each;
-- from there on nine arguments a publication.
-- Answers 1 when all is well, else for each message in this order 1 (sent), 0 (was there already) or why not.

kern_begin(ARGV[1], ARGV[2])
local saying = ARGV[3]
-- It was done, and the answer lost; what was published may be settled since.
if ARGV[4] == '1' and kern_known(saying) then return 1 end

local at, groups, members, member_of = 7, {}, {}, {}
for number = 1, tonumber(ARGV[6]) do
  local group = { routing_key = ARGV[at], suffix = ARGV[at + 1], count = tonumber(ARGV[at + 2]), first = at + 3 }
  groups[number] = group
  for index = 0, group.count - 1 do
    local id = ARGV[group.first + 2 * index]
    if id ~= '' then
      members[#members + 1] = id .. '@' .. group.routing_key
      member_of[group.first + 2 * index] = #members
    end
  end
  at = group.first + 2 * group.count
end

local current, previous = {}, {}
if #members > 0 then
  current = redis.call('SMISMEMBER', kern_current, unpack(members))
  previous = redis.call('SMISMEMBER', kern_previous, unpack(members))
end

local answers, well, seen, remembered = {}, true, {}, {}
for _, group in ipairs(groups) do
  local envelopes, fresh, gone, start = {}, {}, nil, #answers
  for index = 0, group.count - 1 do
    local number = member_of[group.first + 2 * index]
    local member = number and members[number]
    local known = member and (seen[member] or current[number] == 1 or previous[number] == 1)
    if known and not seen[member] then
      if gone == nil then gone = kern_gone(group.routing_key, group.suffix) end
      known = not gone
    end
    if known then
      answers[#answers + 1] = 0
    else
      answers[#answers + 1] = 1
      envelopes[#envelopes + 1] = ARGV[group.first + 2 * index + 1]
      if member then
        seen[member] = true
        fresh[#fresh + 1] = member
      end
    end
  end
  if #envelopes > 0 then
    local pushed = redis.pcall('LPUSH', kern_prefix .. group.routing_key .. group.suffix, unpack(envelopes))
    if type(pushed) == 'table' and pushed.err then
      well = false
      for index = start + 1, #answers do
        if answers[index] == 1 then answers[index] = pushed.err end
      end
    else
      for _, member in ipairs(fresh) do remembered[#remembered + 1] = member end
    end
  end
end
while ARGV[at] do
  local sent, problem = kern_send(ARGV, at)
  if sent < 0 then well = false end
  answers[#answers + 1] = problem or sent
  at = at + 9
end

if well then remembered[#remembered + 1] = saying end
if #remembered > 0 then
  kern_remember(remembered)
  redis.call('SREM', kern_current, ARGV[5])
end
if well then return 1 end
return answers
