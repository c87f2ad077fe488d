-- Take the right to write from a node or one owner, before its messages are given back.
--
-- KEYS  1 beats, 2 nodes, 3 orphans
-- ARGV  1 node or '', 2 the beat it was judged by ('' whatever it is now), 3 '1' to remember it as recovered,
--       4... owners (with no node)
-- Returns 1, or 0 if the node has beaten since.

local function orphan(owner)
  local key = PREFIX .. 'celeriac:owner:' .. owner
  if call('EXISTS', key) == 1 then
    call('HSET', key, 'fenced', '1')
    call('SADD', KEYS[3], owner)
  end
end

go_on_at_maxmemory()
for i = 4, #ARGV do orphan(ARGV[i]) end
local node = ARGV[1]
if node == '' then return 1 end
if ARGV[2] ~= '' and call('ZSCORE', KEYS[1], node) ~= ARGV[2] then return 0 end
call('ZREM', KEYS[1], node)
call('HDEL', KEYS[2], node)
if ARGV[3] == '1' then call('SET', PREFIX .. 'celeriac:gone:' .. node, '1', 'EX', 604800) end
local owners = PREFIX .. 'celeriac:owners:' .. node
for _, owner in ipairs(call('SMEMBERS', owners)) do orphan(owner) end
return 1
