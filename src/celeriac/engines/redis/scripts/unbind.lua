-- Forget a node's own queues on fanout exchanges, with what waits in them; dead letters stay.
--
-- KEYS  1 the node's exchanges, 2 set of known queues
-- ARGV  1 node
-- Returns the number of queues.

local count = 0
for _, exchange in ipairs(call('SMEMBERS', KEYS[1])) do
  local flat = call('HGETALL', PREFIX .. 'celeriac:bound:' .. exchange)
  for i = 1, #flat, 2 do
    if flat[i + 1] == ARGV[1] then
      drop(exchange, flat[i])
      count = count + 1
    end
  end
end
call('DEL', KEYS[1])
return count
