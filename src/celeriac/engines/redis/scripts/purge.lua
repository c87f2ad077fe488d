-- Delete the ready, delayed and parked messages of one queue, and free their unique keys.
--
-- ARGV  1 queue
-- Returns how many there were.

-- include: uniques
-- include: places

local queue, lists = ARGV[1], {}
local count = call('HLEN', own(queue, 'delayed:payload')) + call('HLEN', own(queue, 'parked'))
for lane = 0, #LANES - 1 do lists[lane + 1] = line(queue, lane) end
lists[#lists + 1] = own(queue, 'returned')
for i = 1, #lists do count = count + call('LLEN', lists[i]) end
for _, bucket in ipairs(call('SMEMBERS', own(queue, 'buckets'))) do
  local place = string.byte(bucket) == 1 and string.sub(bucket, 2)
  call('SREM', PREFIX .. 'celeriac:' .. (place and 'place:' .. place or 'rate:' .. bucket) .. ':queues', queue)
  if place then places().offer(place, (clock())) end
  lists[#lists + 1] = own(queue, 'parked:' .. bucket)
end
for _, what in ipairs({ 'delayed', 'delayed:payload', 'parked', 'buckets' }) do lists[#lists + 1] = own(queue, what) end
call('UNLINK', unpack(lists))

-- Whose message is leased now holds on to its key: an id stands in its envelope as it is.
local holders = call('ZRANGE', own(queue, 'unique'), 0, -1)
if holders[1] then
  local owners, leased = call('SMEMBERS', PREFIX .. 'celeriac:orphans'), {}
  for _, node in ipairs(call('ZRANGE', PREFIX .. 'celeriac:beats', 0, -1)) do
    for _, name in ipairs(call('SMEMBERS', PREFIX .. 'celeriac:owners:' .. node)) do owners[#owners + 1] = name end
  end
  for _, name in ipairs(owners) do
    for _, value in ipairs(call('HVALS', own(queue, 'lease:' .. name))) do leased[#leased + 1] = value end
  end
  local function is_leased(id)
    for i = 1, #leased do
      if string.find(leased[i], id, 1, true) then return true end
    end
    return false
  end
  local unique_keys = uniques()
  for _, id in ipairs(holders) do
    if not is_leased(id) then unique_keys.free_of(id) end
  end
end
return count
