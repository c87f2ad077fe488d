-- Store messages, all or none, when some are delayed or tracked (others need no script).
--
-- KEYS  1 set of known queues
-- ARGV  for each message: queue, lane, how ('n', 's', 'd'), when, task id, envelope, ms to track it ('' not at all)
-- Returns the number of messages.

local now = clock()
local woken, tracked = {}, {}
for i = 1, #ARGV, 7 do
  put(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], now)
  woken[ARGV[i]] = true -- for delayed ones, too: idle workers sleep until what they knew to be due next
  if ARGV[i + 6] ~= '' then
    tracked[#tracked + 1] = ARGV[i + 4]
    tracked[#tracked + 1] = ARGV[i + 6]
  end
end
local function track()
  for i = 1, #tracked, 2 do
    redis.call('SET', RESULT_PREFIX .. 'celeriac:queued:' .. tracked[i], '1', 'PX', tracked[i + 1])
  end
end
if #tracked > 0 then with_results(track) end
for queue in pairs(woken) do
  redis.call('SADD', KEYS[1], queue)
  wake(queue)
end
return #ARGV / 7
