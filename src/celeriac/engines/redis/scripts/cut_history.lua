-- Drop the oldest attempts of the history. Safe to repeat.
--
-- ARGV  1 number of the first attempt to keep
-- Returns how many were dropped.

local list = PREFIX .. 'celeriac:history'
local count = tonumber(ARGV[1]) - 1 - tonumber(call('GET', list .. ':dropped') or 0)
local length = call('LLEN', list)
count = math.min(count, length)
if count <= 0 then return 0 end
if count == length then call('DEL', list) else call('LTRIM', list, 0, length - count - 1) end
call('INCRBY', list .. ':dropped', count)
return count
