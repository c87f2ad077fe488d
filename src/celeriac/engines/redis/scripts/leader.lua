-- Tell who leads, or end a term.
--
-- ARGV  nothing, or: 1 the holder who resigns
-- Returns { holder, token, when it ends, now } (epoch seconds), or nil if nobody leads.

-- include: term

local now = clock()
local runs, holder, token = term(now)
if not runs then return nil end
if ARGV[1] == holder then
  go_on_at_maxmemory()
  call('HSET', LEADER, 'expires', '0')
  return nil
end
return { holder, token, call('HGET', LEADER, 'expires'), seconds(now) }
