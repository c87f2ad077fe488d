-- Delete the ready, delayed and parked messages of one queue.
--
-- ARGV  1 queue
-- Returns how many there were.

local queue, lists = ARGV[1], {}
local count = call('HLEN', own(queue, 'delayed:payload')) + call('HLEN', own(queue, 'parked'))
for lane = 0, #LANES - 1 do lists[lane + 1] = line(queue, lane) end
lists[#lists + 1] = own(queue, 'returned')
for i = 1, #lists do count = count + call('LLEN', lists[i]) end
for _, bucket in ipairs(call('SMEMBERS', own(queue, 'buckets'))) do
  call('SREM', PREFIX .. 'celeriac:rate:' .. bucket .. ':queues', queue)
  lists[#lists + 1] = own(queue, 'parked:' .. bucket)
end
for _, what in ipairs({ 'delayed', 'delayed:payload', 'parked', 'buckets' }) do lists[#lists + 1] = own(queue, what) end
call('UNLINK', unpack(lists))
return count
