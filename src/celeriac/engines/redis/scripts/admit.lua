-- Take a token of a rate limit.
--
-- KEYS  1 the bucket, 2 queues with messages parked for it
-- ARGV  1 seconds between two tokens
-- Returns 1 if granted, else 0.

local now, interval = clock(), tonumber(ARGV[1])
go_on_at_maxmemory()
call('HSET', KEYS[1], 'interval', ARGV[1])
if call('EXISTS', KEYS[2]) == 1 then return 0 end
local taken = tonumber(call('HGET', KEYS[1], 'taken') or 0)
if taken + interval > now then return 0 end
call('HSET', KEYS[1], 'taken', seconds(now))
call('EXPIRE', KEYS[1], math.ceil(interval) + 86400)
return 1
