-- Remember revoked ids.
--
-- KEYS  1 control, 2 revoked (id -> version), 3 until (id -> epoch second), 4 signal (id -> name)
-- ARGV  1 seconds to remember them, 2 signal or '', 3... ids
-- Returns the new version.

local now = clock()
go_on_at_maxmemory()
local old = call('ZRANGEBYSCORE', KEYS[3], '-inf', seconds(now), 'LIMIT', 0, 1000)
if #old > 0 then
  call('ZREM', KEYS[2], unpack(old))
  call('ZREM', KEYS[3], unpack(old))
  call('HDEL', KEYS[4], unpack(old))
end
local version = call('HINCRBY', KEYS[1], 'version', 1)
for i = 3, #ARGV do
  call('ZADD', KEYS[2], version, ARGV[i])
  call('ZADD', KEYS[3], seconds(now + ARGV[1]), ARGV[i])
  if ARGV[2] ~= '' then call('HSET', KEYS[4], ARGV[i], ARGV[2]) end
end
return version
