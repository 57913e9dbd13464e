-- What is kept of a message that is in no list: `<length of the list's key>:<the list's key><envelope>`.

-- The list's key, and where the envelope begins.
local function kern_list(record)
  local colon = string.find(record, ':', 1, true)
  local stop = colon + tonumber(string.sub(record, 1, colon - 1))
  return string.sub(record, colon + 1, stop), stop + 1
end

-- The list's key and the envelope.
local function kern_parts(record)
  local list, start = kern_list(record)
  return list, string.sub(record, start)
end

-- Whether messages can be put there: it is a list, or nothing yet.
local function kern_takes_messages(key)
  return type(redis.pcall('LLEN', key)) == 'number'
end
