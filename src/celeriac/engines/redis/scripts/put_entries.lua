-- Add entries or replace what they are; how far they have come stays.
--
-- ARGV  1 holder of a term or '', 2 its token, then for each entry: name, its value in schedule:entries
-- Errors  FENCED: nothing was stored

-- include: term
-- include: entries

local now = clock()
local refusal = fenced(ARGV[1], ARGV[2], now)
if refusal then return refusal end
for i = 3, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  local old = call('HGET', ENTRIES, name)
  if old ~= value then
    call('ZADD', VERSIONS, next_version(), name)
    call('HSET', ENTRIES, name, value)
    if not old then
      call('HSET', TICKS, name, seconds(now) .. '|||0|0|')
      call('ZREM', REMOVED, name)
    elseif string.sub(old, 1, 1) == '0' and string.sub(value, 1, 1) == '1' then
      local rest = string.match(call('HGET', TICKS, name), '^[^|]*(|.*)$')
      call('HSET', TICKS, name, seconds(now) .. rest)
    end
  end
end
return redis.status_reply('OK')
