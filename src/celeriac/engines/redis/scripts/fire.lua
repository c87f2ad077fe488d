-- Fire ticks: mark each that is due later than its entry's last one, and publish its message.
--
-- KEYS  1 set of known queues
-- ARGV  1 holder of the term, 2 its token, then for each tick: name, due (epoch seconds), task id, and 'p' and the
--       words of its publication (publications.lua), or 'n' without one, 'h' if it was left out elsewhere
-- Returns for each tick that was left out: name, reason (done, gone, held).
-- Errors  FENCED: nothing was stored

-- include: uniques
-- include: publications
-- include: term
-- include: entries

local now = clock()
local refusal = fenced(ARGV[1], ARGV[2], now)
if refusal then return refusal end
local fired_at, woken, left = seconds(now), {}, {}

-- Returns the entry's progress, or why the tick is left out.
local function look(name, due)
  local value = call('HGET', ENTRIES, name)
  if not value or string.byte(value) ~= 49 then return nil, 'gone' end
  local since, last_due, _, runs, skipped, last_id =
    string.match(call('HGET', TICKS, name), '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|(.*)$')
  if last_due ~= '' and tonumber(due) <= tonumber(last_due) then return nil, 'done' end
  return { since = since, runs = runs, skipped = skipped, last_id = last_id }
end

local function mark(name, due, kept)
  call('HSET', TICKS, name,
    table.concat({ kept.since, due, fired_at, kept.runs, kept.skipped, kept.last_id }, '|'))
end

-- Fire the tick whose words begin at ARGV[i]. Returns why its message is left out, if it is.
local function fire(i)
  local name, due, id, how = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local kept, reason = look(name, due)
  if not kept then return reason end
  local held = how == 'h'
  if how == 'p' then
    local _, others = publish_all(i + 4, 1, now, woken)
    held = #others > 0
  end
  if held then
    kept.skipped = kept.skipped + 1
  elseif how == 'p' or id ~= '' then
    kept.runs, kept.last_id = kept.runs + 1, id
  end
  mark(name, due, kept)
  return held and 'held' or nil
end

local i = 3
while i <= #ARGV do
  local reason = fire(i)
  if reason then left[#left + 1], left[#left + 2] = ARGV[i], reason end
  i = i + (ARGV[i + 3] == 'p' and 15 or 4)
end
for queue in pairs(woken) do
  call('SADD', KEYS[1], queue)
  wake(queue)
end
return left
