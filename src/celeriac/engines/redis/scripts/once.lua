-- Mark a leased message: it must not run twice.
--
-- KEYS  1 owner's record, 2 lease
-- ARGV  1 token
-- Returns 1 if the lease is held, else 0.

local record = call('HMGET', KEYS[1], 'seq', 'fenced')
if not record[1] or record[2] then return 0 end
local value = call('HGET', KEYS[2], ARGV[1])
if not value then return 0 end
local lane, flags, envelope = split(value)
go_on_at_maxmemory()
call('HSET', KEYS[2], ARGV[1], lane .. '|' .. flags .. 'o|' .. envelope)
return 1
