-- Closes a join that is decided, or past its deadline. KEYS: join, joins that somebody has to look at. ARGV: id, life in
-- ms ('0': for ever). Answers the messages to be published, as they are kept; '' if there are none for the caller.
local key, due = KEYS[1], KEYS[2]
local join, problem = kern_join(key)
if not join then
    return redis.error_reply(problem)
end
local verdict = kern_verdict(join)
if join.closed or not (join.opened or join.size) then
    redis.call('ZREM', due, ARGV[1])
    return ''
end
if not verdict then
    if not join.opened or not join.deadline or join.deadline > kern_now() then
        return ''
    end
    verdict = '0'
end
redis.call('ZREM', due, ARGV[1])
redis.call('HSET', key, 'closed', verdict)
kern_keep_join(join, ARGV[2], kern_now())
return redis.call('HGET', key, verdict == '1' and 'body' or 'errors') or ''
