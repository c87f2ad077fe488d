-- Keep a running task's checkpoint while its lease is held.
--
-- KEYS  1 owner's record, 2 lease, 3 the checkpoint
-- ARGV  1 token, 2 payload, 3 ms to keep it
-- Returns 1 if the lease is held, else 0.

local record = call('HMGET', KEYS[1], 'seq', 'fenced')
if not record[1] or record[2] or call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 0 end
go_on_at_maxmemory()
call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
return 1
