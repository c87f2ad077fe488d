-- Add count attempts, ARGV[first] and on, to the history; it is cut a thousand at a time. Whatever is wrong with the
-- list must not stop what it goes with.
local function note(first, count)
  local list, length = PREFIX .. 'celeriac:history', 0
  for i = first, first + count - 1, 2000 do -- Lua's stack bounds the words of one command
    length = redis.pcall('LPUSH', list, unpack(ARGV, i, math.min(i + 1999, first + count - 1)))
  end
  if type(length) == 'number' and length >= HISTORY_MAX + 1000 then
    call('LTRIM', list, 0, HISTORY_MAX - 1)
    call('INCRBY', list .. ':dropped', length - HISTORY_MAX)
  end
end
