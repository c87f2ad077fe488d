-- Look through the history, newest first, for attempts in which certain texts stand.
--
-- ARGV  1 look at attempts with numbers below this one, or '' to begin with the newest, 2 how many to look at, then for
--       each list of texts of which one must be there: how many, the texts
-- Returns { the lowest number that was looked at, or 0 if that was the oldest, the attempt of this number or '',
--           number, attempt, number, attempt, ... }
-- Attempts are numbered as they come; the newest has the number of all that ever came.

local list = PREFIX .. 'celeriac:history'
local dropped, length = tonumber(call('GET', list .. ':dropped') or 0), call('LLEN', list)
local newest, skip = dropped + length, 0
if ARGV[1] ~= '' then skip = math.max(newest - tonumber(ARGV[1]) + 1, 0) end
local looked = call('LRANGE', list, skip, skip + tonumber(ARGV[2]) - 1)

local texts, at = {}, 3
while ARGV[at] do
  local count, either = tonumber(ARGV[at]), {}
  for i = 1, count do either[i] = ARGV[at + i] end
  texts[#texts + 1] = either
  at = at + 1 + count
end

local function fits(attempt)
  for i = 1, #texts do
    local either, found = texts[i], false
    for j = 1, #either do found = found or string.find(attempt, either[j], 1, true) end
    if not found then return false end
  end
  return true
end

local last = newest - skip - #looked + 1
local found = { last > dropped + 1 and #looked > 0 and last or 0, looked[#looked] or '' }
for i = 1, #looked do
  if fits(looked[i]) then
    found[#found + 1] = newest - skip - i + 1
    found[#found + 1] = looked[i]
  end
end
return found
