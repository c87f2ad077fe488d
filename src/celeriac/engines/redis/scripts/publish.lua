-- Store messages, all or none, when some are delayed or tracked (others need no script).
--
-- KEYS  1 set of known queues, 2 control
-- ARGV  for each message: queue (or fanout: see common.lua), lane, how ('n', 's', 'd'), when, task id, envelope, ms to track it ('' not at all)
-- Returns the number of messages.

local now = clock()
local woken, noted = {}, {}
for i = 1, #ARGV, 7 do
  put(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], now)
  if string.byte(ARGV[i]) ~= 0 then woken[ARGV[i]] = true end -- for delayed ones, too: idle workers sleep until what they knew to be due next
  if ARGV[i + 6] ~= '' then
    noted[#noted + 1] = ARGV[i + 4]
    noted[#noted + 1] = ARGV[i + 6]
  end
end
local function track()
  for i = 1, #noted, 2 do
    call('SET', RESULT_PREFIX .. 'celeriac:queued:' .. noted[i], '1', 'PX', noted[i + 1])
  end
end
if #noted > 0 then
  call('HSET', KEYS[2], 'tracked', '1')
  with_results(track)
end
for queue in pairs(woken) do
  call('SADD', KEYS[1], queue)
  wake(queue)
end
return #ARGV / 7
