-- Which nodes have stopped beating. If nobody looked for half a node's lease, the store was away (or nobody was
-- there): the node gets a fresh lease first.
--
-- KEYS  1 beats, 2 nodes, 3 when anyone looked last
-- ARGV  1 lease in seconds of nodes that never told theirs
-- Returns for each node: node, beat, NodeInfo or '', '1' if overdue.

local now = clock()
local gap = now - tonumber(call('GET', KEYS[3]) or 0)
go_on_at_maxmemory()
call('SET', KEYS[3], seconds(now))
local beats, found = call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), {}
for i = 1, #beats, 2 do
  local node, beat, info = beats[i], beats[i + 1], call('HGET', KEYS[2], beats[i])
  local lease = tonumber(ARGV[1])
  if info then
    local fine, told = pcall(cjson.decode, info)
    if fine and tonumber(told.lease) then lease = told.lease end
  end
  local overdue = ''
  if gap > lease / 2 then
    call('ZADD', KEYS[1], seconds(now), node)
    beat = call('ZSCORE', KEYS[1], node)
  elseif now - tonumber(beat) > lease then
    overdue = '1'
  end
  local n = #found
  found[n + 1], found[n + 2], found[n + 3], found[n + 4] = node, beat, info or '', overdue
end
return found
