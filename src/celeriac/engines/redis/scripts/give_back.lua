-- Return messages that were not started to the front of their lines.
--
-- KEYS  1 owner's record
-- ARGV  1 owner, then pairs of queue and token, the youngest first
-- Returns how many were held.

-- include: places

local held, woken = 0, {}
local held_places, now = call('HEXISTS', KEYS[1], 'places') == 1 and places(), clock()
for i = 2, #ARGV, 2 do
  local queue, token = ARGV[i], ARGV[i + 1]
  local lease = own(queue, 'lease:' .. ARGV[1])
  local value = call('HGET', lease, token)
  if value then
    call('HDEL', lease, token)
    if held_places then held_places.leave(lease, token, now) end
    local lane, flags, envelope = split(value)
    front(queue, lane .. '|' .. string.gsub(flags, '[op]', '') .. '|' .. envelope)
    held = held + 1
    woken[queue] = true
  end
end
for queue in pairs(woken) do wake(queue) end
return held
