-- Remove delayed and parked messages by task id, and free their unique keys.
--
-- ARGV  1 number of queues, then the queues, then the ids
-- Returns the ids found.

-- include: uniques
-- include: places
-- include: sweep

local queues, found = tonumber(ARGV[1]), {}
local unique_keys, held_places, now = uniques(), places(), clock()

local function cancel(queue, id)
  local delayed, payloads, parked = own(queue, 'delayed'), own(queue, 'delayed:payload'), own(queue, 'parked')
  local hit = false
  for n = 1, 8 do -- more messages of one id in one queue at once are left to the list of revoked ids
    local member = n == 1 and id or id .. '#' .. n
    if call('HDEL', payloads, member) == 1 then
      call('ZREM', delayed, member)
      hit = true
    end
    if call('HDEL', parked, member) == 1 then
      for _, bucket in ipairs(call('SMEMBERS', own(queue, 'buckets'))) do sweep(queue, bucket, held_places, now) end
      hit = true
    end
  end
  if hit then unique_keys.free_of(id) end
  return hit
end

for i = queues + 2, #ARGV do
  local hit = false
  for q = 2, queues + 1 do hit = cancel(ARGV[q], ARGV[i]) or hit end
  if hit then found[#found + 1] = ARGV[i] end
end
return found
