-- Override a rate limit, or remove the override; what is parked feels it at once.
--
-- KEYS  1 control, 2 the bucket, 3 queues with messages parked for it
-- ARGV  1 task, 2 limit as text, 3 seconds between two tokens; '' to remove the override, then parked messages
--       go back to ready (up to 1,000 a queue a call) and are asked again
-- Returns { version, messages still parked }.

local left = 0
call('HDEL', KEYS[2], 'taken')
if ARGV[3] == '' then
  call('HDEL', KEYS[1], 'l:' .. ARGV[1])
  for _, queue in ipairs(call('SMEMBERS', KEYS[3])) do
    local list, parked = own(queue, 'parked:' .. ARGV[1]), own(queue, 'parked')
    for _ = 1, 1000 do
      local member = call('LPOP', list) -- the youngest first: each goes to the front
      if not member then break end
      local value = call('HGET', parked, member)
      if value then
        call('HDEL', parked, member)
        front(queue, value)
      end
    end
    left = left + call('LLEN', list)
    if call('EXISTS', list) == 0 then
      call('SREM', KEYS[3], queue)
      call('SREM', own(queue, 'buckets'), ARGV[1])
      call('ZREM', own(queue, 'delayed'), '\0' .. ARGV[1])
    end
    wake(queue)
  end
else
  call('HSET', KEYS[1], 'l:' .. ARGV[1], ARGV[2])
  call('HSET', KEYS[2], 'interval', ARGV[3])
  for _, queue in ipairs(call('SMEMBERS', KEYS[3])) do
    call('ZADD', own(queue, 'delayed'), seconds((clock())), '\0' .. ARGV[1])
    wake(queue)
  end
end
return { call('HINCRBY', KEYS[1], 'version', 1), left }
