-- Put messages of a fenced owner back in line, each on condition that its lease is still there.
--
-- KEYS  1 lease
-- ARGV  1 queue, then for each message, the youngest first: token, value (lane|flags|envelope)
-- Returns how many were put back.

local held = 0
for i = 2, #ARGV, 2 do
  if call('HDEL', KEYS[1], ARGV[i]) == 1 then
    front(ARGV[1], ARGV[i + 1])
    held = held + 1
  end
end
if held > 0 then wake(ARGV[1]) end
return held
