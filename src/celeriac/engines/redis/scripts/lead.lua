-- Take the term, or put off the end of one's own.
--
-- ARGV  1 holder, 2 seconds until it ends
-- Returns { token, when it ends, now } (epoch seconds), or nil if another leads.

-- include: term

local now = clock()
local runs, holder, token = term(now)
if runs and holder ~= ARGV[1] then return nil end
go_on_at_maxmemory()
if not runs then token = call('HINCRBY', LEADER, 'token', 1) end
local expires = seconds(now + ARGV[2])
call('HSET', LEADER, 'holder', ARGV[1], 'expires', expires, 'ttl', ARGV[2])
return { tostring(token), expires, seconds(now) }
