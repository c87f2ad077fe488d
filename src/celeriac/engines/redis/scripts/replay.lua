-- Put dead letters back at the end of their line, each on condition that it is still there.
--
-- ARGV  1 queue, then for each: key, lane, envelope
-- Returns how many were put back.

local queue, count = ARGV[1], 0
for i = 2, #ARGV, 3 do
  if call('HDEL', own(queue, 'dead:letters'), ARGV[i]) == 1 then
    call('ZREM', own(queue, 'dead'), ARGV[i])
    call('LPUSH', line(queue, tonumber(ARGV[i + 1])), ARGV[i + 2])
    count = count + 1
  end
end
if count > 0 then wake(queue) end
return count
