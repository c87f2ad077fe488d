-- End an owed body that the caller holds, and store what follows from it.
--
-- KEYS  1 set of known queues
-- ARGV  1 group, 2 by whom, 3 number of publications, then the words of each (publications.lua), number of parts,
--       the words of each (chords.lua), number of records, and for each: id, payload, ttl in ms or '', reply, mark
-- Returns the groups that are owed because of the parts, or nil if the caller does not hold it.

-- include: uniques
-- include: publications
-- include: chords

local chord_store, now = chords(), clock()
local owed, woken = {}, {}
if not with_results(chord_store.holds, ARGV[1], ARGV[2]) then return nil end
go_on_at_maxmemory()
local at = publish_all(4, tonumber(ARGV[3]), now, woken)
with_results(function()
  at = chord_store.record(at + 1, tonumber(ARGV[at]), ARGV[2], now, owed)
  for i = at + 1, at + tonumber(ARGV[at]) * 5, 5 do
    store(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
  end
  chord_store.finish(ARGV[1]) -- last: if anything before fails, the body is still owed
end)
for queue in pairs(woken) do
  call('SADD', KEYS[1], queue)
  wake(queue)
end
return owed
