-- Remember revoked ids.
--
-- KEYS  1 control, 2 revoked (id -> version), 3 until (id -> epoch second), 4 signal (id -> name)
-- ARGV  1 seconds to remember them, 2 signal or '', 3... ids
-- Returns the new version.

local now = clock()
local old = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', seconds(now), 'LIMIT', 0, 1000)
if #old > 0 then
  redis.call('ZREM', KEYS[2], unpack(old))
  redis.call('ZREM', KEYS[3], unpack(old))
  redis.call('HDEL', KEYS[4], unpack(old))
end
local version = redis.call('HINCRBY', KEYS[1], 'version', 1)
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[2], version, ARGV[i])
  redis.call('ZADD', KEYS[3], seconds(now + ARGV[1]), ARGV[i])
  if ARGV[2] ~= '' then redis.call('HSET', KEYS[4], ARGV[i], ARGV[2]) end
end
return version
