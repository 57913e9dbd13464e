-- Creates a join. KEYS: join, joins that somebody has to look at. ARGV: id, life in ms ('0': for ever), policy, needed,
-- size, members as JSON, body, errors, deadline in ms, then number and name of each member.
local key, due = KEYS[1], KEYS[2]
local join, problem = kern_join(key)
if not join then
    return redis.error_reply(problem)
end
if join.opened or join.closed then
    return 0
end
redis.call('HSET', key, 'opened', '1', 'policy', ARGV[3], 'members', ARGV[6])
for number, field in ipairs({'needed', 'size', false, 'body', 'errors', 'deadline'}) do
    local value = ARGV[3 + number]
    if field and value ~= '' then
        redis.call('HSET', key, field, value)
    end
end
for at = 10, #ARGV, 2 do
    redis.call('ZADD', key .. '.members', ARGV[at], ARGV[at + 1])
end
join = kern_join(key)
if kern_verdict(join) then
    redis.call('ZADD', due, 0, ARGV[1])
elseif join.deadline then
    redis.call('ZADD', due, ARGV[9], ARGV[1])
end
kern_keep_join(join, ARGV[2], kern_now())
return 1
