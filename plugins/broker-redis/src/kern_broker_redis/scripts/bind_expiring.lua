-- Bind a queue that expires when it is not used: the table of its exchange may be swept by Celery's consumers some time
-- after the last of them has said that it is still needed.
--
-- KEYS: the table, its deadlines. ARGV: member, exchange, milliseconds.

redis.call('SADD', KEYS[1], ARGV[1])
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], 'GT', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3], ARGV[2])
