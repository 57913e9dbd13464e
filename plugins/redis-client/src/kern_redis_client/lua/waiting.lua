-- Who waits for messages of a queue: all who are idle, and those few of them whom the server tells of new ones
-- (sentries). Both by the time at which they last found nothing; whoever is silent for longer is gone.

local kern_silent = 2500
local kern_sentries = 3
local kern_fewest_sentries = 2

-- Wake up to `count` idle workers, who are not sentries: those are told by the server anyway.
local function kern_ring_idle(prefix, queue, count, now)
  local idle, sentries = prefix .. 'kern.idle.' .. queue, prefix .. 'kern.sentries.' .. queue
  local found = redis.call('ZREVRANGEBYSCORE', idle, '+inf', now - kern_silent, 'LIMIT', 0, count + kern_sentries + 5)
  for _, worker in ipairs(found) do
    if count == 0 then
      return
    end
    local sentry = redis.call('ZSCORE', sentries, worker)
    if not sentry or tonumber(sentry) < now - kern_silent then
      redis.call('ZREM', idle, worker)
      -- Nobody hears it whose connection is gone: then the next one is tried.
      if redis.call('PUBLISH', prefix .. 'kern.ring.' .. worker, queue) > 0 then
        count = count - 1
      end
    end
  end
end

-- The worker found nothing in the queue; whether it is a sentry now.
local function kern_wait(prefix, queue, worker, now)
  local idle, sentries = prefix .. 'kern.idle.' .. queue, prefix .. 'kern.sentries.' .. queue
  -- The first write is one that is not refused for want of memory.
  redis.call('ZREMRANGEBYSCORE', sentries, '-inf', now - kern_silent)
  redis.call('ZREMRANGEBYSCORE', idle, '-inf', now - kern_silent)
  -- Those of the future are from before the clock was set.
  redis.call('ZREMRANGEBYSCORE', sentries, now + kern_silent, '+inf')
  redis.call('ZADD', idle, now, worker)
  redis.call('PEXPIRE', idle, 60000)
  if redis.call('ZCARD', sentries) >= kern_sentries and not redis.call('ZSCORE', sentries, worker) then
    return false
  end
  redis.call('ZADD', sentries, now, worker)
  redis.call('PEXPIRE', sentries, 60000)
  return true
end

-- The worker waits no more; another takes its post, if too few are left.
local function kern_leave(prefix, queue, worker, now)
  local idle, sentries = prefix .. 'kern.idle.' .. queue, prefix .. 'kern.sentries.' .. queue
  redis.call('ZREM', idle, worker)
  if redis.call('ZREM', sentries, worker) == 1
    and redis.call('ZCOUNT', sentries, now - kern_silent, '+inf') < kern_fewest_sentries then
    kern_ring_idle(prefix, queue, 1, now)
  end
end
