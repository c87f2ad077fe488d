-- Put messages of a fenced owner back in line, each on condition that its lease is still there, and free their
-- places.
--
-- KEYS  1 lease
-- ARGV  1 queue, then for each message, the youngest first: token, value (lane|flags|envelope)
-- Returns how many were put back.

-- include: places

local held = 0
local held_places, now = call('EXISTS', KEYS[1] .. ':places') == 1 and places(), clock()
for i = 2, #ARGV, 2 do
  if call('HDEL', KEYS[1], ARGV[i]) == 1 then
    front(ARGV[1], ARGV[i + 1])
    if held_places then held_places.leave(KEYS[1], ARGV[i], now) end
    held = held + 1
  end
end
if held > 0 then wake(ARGV[1]) end
return held
