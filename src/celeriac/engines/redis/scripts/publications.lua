-- Publications that are more than a push: delayed, tracked, on condition of a unique key. To be included, after
-- uniques.lua.

-- Store count publications from ARGV[first] on, for each 11 words: queue (or fanout: see common.lua), lane, how ('n', 's', 'd'), when, task id,
-- envelope, ms to track it ('' not at all), unique key ('' none), ms to hold it, until when, instead of whom.
-- The queues go into woken. Returns what follows in ARGV, and the left out: index from 0, holder, ...
local function publish_all(first, count, now, woken)
  local noted, left, holders = {}, {}, nil
  for n = 0, count - 1 do
    local i = first + n * 11
    local queue, how, id, key = ARGV[i], ARGV[i + 2], ARGV[i + 4], ARGV[i + 7]
    local flags, holder = '', nil
    if key ~= '' then
      holders = holders or uniques()
      if ARGV[i + 9] == 'delayed' and how ~= 'n' then flags = 'u' end
      holder = holders.take(key, id, queue, ARGV[i + 8], ARGV[i + 9], ARGV[i + 10], how ~= 'n', now)
    end
    if holder then
      left[#left + 1], left[#left + 2] = n, holder
    else
      put(queue, tonumber(ARGV[i + 1]), how, ARGV[i + 3], id, ARGV[i + 5], now, flags)
      if string.byte(queue) ~= 0 then woken[queue] = true end -- for delayed ones, too: idle workers sleep until what they knew to be due next
      if ARGV[i + 6] ~= '' then
        noted[#noted + 1], noted[#noted + 2] = id, ARGV[i + 6]
      end
    end
  end
  if #noted > 0 then
    call('HSET', PREFIX .. 'celeriac:control', 'tracked', '1')
    with_results(function()
      for i = 1, #noted, 2 do
        call('SET', RESULT_PREFIX .. 'celeriac:queued:' .. noted[i], '1', 'PX', noted[i + 1])
      end
    end)
  end
  return first + count * 11, left
end
