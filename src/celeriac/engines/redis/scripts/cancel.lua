-- Remove delayed and parked messages by task id.
--
-- ARGV  1 number of queues, then the queues, then the ids
-- Returns the ids found.

local queues, found = tonumber(ARGV[1]), {}
for i = queues + 2, #ARGV do
  local id, hit = ARGV[i], false
  for q = 2, queues + 1 do
    local queue = ARGV[q]
    local delayed, payloads, parked = own(queue, 'delayed'), own(queue, 'delayed:payload'), own(queue, 'parked')
    for n = 1, 8 do -- more messages of one id in one queue at once are left to the list of revoked ids
      local member = n == 1 and id or id .. '#' .. n
      if redis.call('HDEL', payloads, member) == 1 then
        redis.call('ZREM', delayed, member)
        hit = true
      end
      if redis.call('HDEL', parked, member) == 1 then hit = true end
    end
  end
  if hit then found[#found + 1] = id end
end
return found
