-- Ids of joins that somebody has to look at. KEYS: these joins. ARGV: how many at most, what their keys begin with.
-- Those that have expired are forgotten.
local found = {}
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', kern_now()), 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do
    if redis.call('EXISTS', ARGV[2] .. id) == 1 then
        found[#found + 1] = id
    else
        redis.call('ZREM', KEYS[1], id)
    end
end
return found
