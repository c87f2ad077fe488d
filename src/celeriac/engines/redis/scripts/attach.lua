-- Register a lease owner.
--
-- KEYS  1 owner's record, 2 the node's owners, 3 beats, 4 mark of a node that was recovered, 5 orphans
-- ARGV  1 owner, 2 node, 3 slots, 4 who attaches: whose answer was lost may do it again
-- Errors  FENCED: the node was recovered by others. EXISTS: there is an owner of this name.

if call('EXISTS', KEYS[4]) == 1 then
  return redis.error_reply('FENCED node ' .. ARGV[2] .. ' was taken for dead: it must start again under a new id')
end
local holder = call('HMGET', KEYS[1], 'seq', 'by')
if holder[1] and holder[2] ~= ARGV[4] then
  return redis.error_reply('EXISTS lease owner ' .. ARGV[1] .. ' exists already')
end
go_on_at_maxmemory()
call('HSET', KEYS[1], 'seq', '0', 'answer', ';', 'node', ARGV[2], 'slots', ARGV[3], 'by', ARGV[4])
call('SADD', KEYS[2], ARGV[1])
call('ZADD', KEYS[3], 'NX', seconds((clock())), ARGV[2]) -- so that it is recovered if it never beats
return redis.status_reply('OK')
