-- Store messages, all or none (but those whose unique key is held), when some are delayed, tracked or unique.
--
-- KEYS  1 set of known queues
-- ARGV  for each message the words in publications.lua
-- Returns for each message that was left out: index (from 0), task id that holds its key or ''.

-- include: uniques
-- include: publications

local woken = {}
local _, left = publish_all(1, #ARGV / 11, (clock()), woken)
for queue in pairs(woken) do
  call('SADD', KEYS[1], queue)
  wake(queue)
end
return left
