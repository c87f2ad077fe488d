-- Renew a node's leases.
--
-- KEYS  1 beats, 2 nodes, 3 mark of a node that was recovered
-- ARGV  1 node, 2 NodeInfo as JSON
-- Returns the server's clock in us.
-- Errors  FENCED

if call('EXISTS', KEYS[3]) == 1 then
  return redis.error_reply('FENCED node ' .. ARGV[1] .. ' was taken for dead: it must start again under a new id')
end
local now, now_us = clock()
go_on_at_maxmemory()
call('ZADD', KEYS[1], seconds(now), ARGV[1])
call('HSET', KEYS[2], ARGV[1], ARGV[2])
return now_us
