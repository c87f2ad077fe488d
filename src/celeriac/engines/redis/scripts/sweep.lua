-- Buckets of parked messages from which some were taken out. To be included, after places.lua.

-- Forget what stands first in a bucket and has gone, and the bucket if that was all.
local function sweep(queue, bucket, held_places, now)
  local list, place = own(queue, 'parked:' .. bucket), string.byte(bucket) == 1 and string.sub(bucket, 2)
  local head = call('LINDEX', list, -1)
  while head and call('HEXISTS', own(queue, 'parked'), head) == 0 do
    call('RPOP', list)
    head = call('LINDEX', list, -1)
  end
  if head then return end
  call('SREM', own(queue, 'buckets'), bucket)
  call('SREM', PREFIX .. 'celeriac:' .. (place and 'place:' .. place or 'rate:' .. bucket) .. ':queues', queue)
  call('ZREM', own(queue, 'delayed'), '\0' .. bucket)
  if place then held_places.offer(place, now) end
end
