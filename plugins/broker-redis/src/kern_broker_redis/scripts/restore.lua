-- Hand one message of a Celery worker's lease back, unless that has changed meanwhile.
--
-- KEYS: Celery's leases, their index. ARGV: tag, the lease as it was read, the envelope, the lists it goes to.
-- Answers: 1 handed back, 0 it has changed, -1 a list is none.

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
for position = 4, #ARGV do
  if type(redis.pcall('LLEN', ARGV[position])) ~= 'number' then
    return -1
  end
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
for position = 4, #ARGV do
  redis.call('RPUSH', ARGV[position], ARGV[3])
end
return 1
