-- Store and announce task states.
--
-- ARGV  1 number of records, then for each: id, payload, ttl in ms or '', reply channel or '', mark, owner or '', lease key or '', token
--       With an owner: only while that lease is held. The lease is in database DB, results are in RESULT_DB.
--       then attempts for the history, which is in the database of the script's engine
-- Returns the indices (from 0) of the records that were refused.

local refused = {}
go_on_at_maxmemory()
local attempts = 2 + tonumber(ARGV[1]) * 8
for i = 2, attempts - 1, 8 do
  local held = true
  if ARGV[i + 5] ~= '' then
    local record = call('HMGET', PREFIX .. 'celeriac:owner:' .. ARGV[i + 5], 'seq', 'fenced')
    held = record[1] and not record[2] and call('HEXISTS', own(ARGV[i + 6], 'lease:' .. ARGV[i + 5]), ARGV[i + 7]) == 1
  end
  if not held or not with_results(store, ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]) then
    refused[#refused + 1] = (i - 2) / 8
  end
end
if ARGV[attempts] then
  -- include: history
  note(attempts, #ARGV - attempts + 1)
end
return refused
