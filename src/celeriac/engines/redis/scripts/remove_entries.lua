-- Remove entries.
--
-- ARGV  1 holder of a term or '', 2 its token, 3 how many removals to remember, 4... names
-- Returns how many there were.
-- Errors  FENCED: nothing was done

-- include: term
-- include: entries

local refusal = fenced(ARGV[1], ARGV[2], (clock()))
if refusal then return refusal end
go_on_at_maxmemory()
local count = 0
for i = 4, #ARGV do
  local name = ARGV[i]
  if call('HDEL', ENTRIES, name) == 1 then
    call('HDEL', TICKS, name)
    call('ZREM', VERSIONS, name)
    call('ZADD', REMOVED, next_version(), name)
    count = count + 1
  end
end
local excess = count > 0 and call('ZCARD', REMOVED) - ARGV[3] or 0
if excess > 0 then
  local last = call('ZRANGE', REMOVED, excess - 1, excess - 1, 'WITHSCORES')
  call('HSET', SCHEDULE, 'forgotten', last[2])
  call('ZREMRANGEBYSCORE', REMOVED, '-inf', last[2])
end
return count
