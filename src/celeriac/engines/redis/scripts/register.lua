-- Note that an owner may hold leases of these queues, before it claims from them.
--
-- KEYS  1 owner's record, 2 set of known queues
-- ARGV  1 owner, 2... queues
-- Errors  FENCED

local record = call('HMGET', KEYS[1], 'seq', 'fenced')
if not record[1] or record[2] then
  return redis.error_reply('FENCED lease owner ' .. ARGV[1] .. ' is not known any more: others took over its messages')
end
go_on_at_maxmemory()
for i = 2, #ARGV do
  call('HSET', KEYS[1], 'q:' .. ARGV[i], '1')
  call('SADD', KEYS[2], ARGV[i])
end
return redis.status_reply('OK')
