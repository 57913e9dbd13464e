-- Messages have left the broker: what is remembered of them goes, too; stands on deliver.lua.
--
-- ARGV: prefix, separator, how many members of kern.published, the members, ids of notes.

kern_begin(ARGV[1], ARGV[2])
local count, members, ids = tonumber(ARGV[3]), {}, {}
for number = 4, #ARGV do
  if number < 4 + count then
    members[#members + 1] = ARGV[number]
  else
    ids[#ids + 1] = ARGV[number]
  end
end
if #members > 0 then kern_forget(members) end
if #ids > 0 then redis.call('HDEL', ARGV[1] .. 'kern.notes', unpack(ids)) end
