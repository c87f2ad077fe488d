-- Untie a node's own queues from their exchanges.
--
-- KEYS  1 the node's exchanges
-- ARGV  1 node
-- Returns the queues.

local queues = {}
for _, exchange in ipairs(call('SMEMBERS', KEYS[1])) do
  local flat = call('HGETALL', PREFIX .. 'celeriac:bound:' .. exchange)
  for i = 1, #flat, 2 do
    if flat[i + 1] == ARGV[1] then
      untie(exchange, flat[i])
      queues[#queues + 1] = flat[i]
    end
  end
end
call('DEL', KEYS[1])
return queues
