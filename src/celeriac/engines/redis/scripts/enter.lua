-- Take a place under a concurrency limit.
--
-- KEYS  1 owner's record, 2 lease, 3 the place
-- ARGV  1 place, 2 limit, 3 token
-- Returns 1 if the lease has a place, else 0.

-- include: places

local record, now = call('HMGET', KEYS[1], 'seq', 'fenced'), clock()
if not record[1] or record[2] or call('HEXISTS', KEYS[2], ARGV[3]) == 0 then return 0 end
local held_places = places()
go_on_at_maxmemory()
local has = call('HGET', KEYS[2] .. ':places', ARGV[3]) == ARGV[1]
if not has then held_places.leave(KEYS[2], ARGV[3], now) end
call('HSET', KEYS[3], 'limit', ARGV[2])
local free, awaited = held_places.free(ARGV[1]), call('EXISTS', KEYS[3] .. ':queues') == 1
if awaited and free > 0 then held_places.offer(ARGV[1], now) end -- the limit has grown
if has then return 1 end
if awaited or free <= 0 then return 0 end
held_places.take(ARGV[1], KEYS[1], KEYS[2], ARGV[3])
return 1
