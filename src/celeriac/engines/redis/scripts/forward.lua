-- Make delayed and parked messages ready before their time, each on condition that it still waits as it was read.
--
-- ARGV  1 queue, then for each: '' (delayed) or its bucket (parked), member, value as read, value to go on with
-- Returns how many were made ready.

-- include: uniques
-- include: places
-- include: sweep

local queue, count = ARGV[1], 0
local delayed, payloads, parked = own(queue, 'delayed'), own(queue, 'delayed:payload'), own(queue, 'parked')
local unique_keys, held_places, now = uniques(), places(), clock()
for i = 2, #ARGV, 4 do
  local bucket, member = ARGV[i], ARGV[i + 1]
  local place = bucket == '' and payloads or parked
  if call('HGET', place, member) == ARGV[i + 2] then
    local lane, flags, envelope = split(ARGV[i + 3])
    if string.find(flags, 'r', 1, true) then
      call('LPUSH', own(queue, 'returned'), ARGV[i + 3])
    else
      call('LPUSH', line(queue, lane), envelope)
    end
    call('HDEL', place, member)
    if bucket == '' then
      call('ZREM', delayed, member)
    else
      sweep(queue, bucket, held_places, now)
    end
    if string.find(flags, 'u', 1, true) then unique_keys.free_of(member) end
    count = count + 1
  end
end
if count > 0 then wake(queue) end
return count
