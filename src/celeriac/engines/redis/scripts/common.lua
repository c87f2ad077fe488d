-- What the scripts share. In front of it stand, written by scripts.py:
--   PREFIX (of all keys), LANES (endings of a queue's lists, most urgent first), DB (the broker's database),
--   RESULT_PREFIX, RESULT_DB (false: the broker's own), DEAD_MAX, DEAD_AGE, TOMBSTONE (seconds, 0: none),
--   HISTORY_MAX (attempts),
--   SCOPE (what keys of the schedule end with), OWED_AGAIN, CLOCK_STEP (seconds).
-- Envelopes are bytes here: never parsed, never encoded again (cjson would ruin numbers and empty lists).

local call = redis.call -- a local is found faster than a field of a global
local tracked = true -- whether anyone records queued tasks; exchange.lua looks
local LARGEST_PUSH = 65536 -- bytes of a result that goes with its announcement

local function line(queue, lane) return PREFIX .. queue .. LANES[lane + 1] end

local function own(queue, what) return PREFIX .. 'celeriac:{' .. queue .. '}:' .. what end

local function wake(queue) call('ZADD', own(queue, 'wake'), 0, '1') end

-- At maxmemory a script may write as it likes once its first write was one that frees memory. Workers must go on
-- settling, beating and taking over when producers are refused.
local function go_on_at_maxmemory() call('DEL', PREFIX .. 'celeriac:nothing') end

local function clock() -- seconds and microseconds since the epoch
  local time = call('TIME')
  return time[1] + time[2] / 1000000, time[1] * 1000000 + time[2]
end

local function seconds(number) return string.format('%.6f', number) end

-- value = lane|flags|envelope -> lane, flags, envelope
local function split(value)
  local lane, flags, start = string.match(value, '^(%d+)|(%a*)|()')
  return tonumber(lane), flags, string.sub(value, start)
end

-- To the front of the line the value came from; what Celery's workers must not run, to a list of its own.
local function front(queue, value)
  local lane, flags, envelope = split(value)
  if string.find(flags, 'r', 1, true) then
    call('RPUSH', own(queue, 'returned'), lane .. '|' .. string.gsub(flags, 'p', '') .. '|' .. envelope)
  else
    call('RPUSH', line(queue, lane), envelope)
  end
end

-- Keep value under an id; a second message of the same task id gets the name id#2, ...
local function keep(hash, id, value)
  local member, n = id, 1
  while call('HSETNX', hash, member, value) == 0 do
    n = n + 1
    member = id .. '#' .. n
  end
  return member
end

local delays = 0

local function delay(queue, due, id, value)
  local member = keep(own(queue, 'delayed:payload'), id, value)
  call('ZADD', own(queue, 'delayed'), seconds(due + delays / 1000000), member)
  delays = delays + 1 -- a microsecond keeps what falls due together in order
end

local function announce(channel, message) redis.pcall('PUBLISH', channel, message) end

-- Untie a queue that was a node's own, also where kombu looks for it.
local function untie(exchange, queue)
  call('HDEL', PREFIX .. 'celeriac:bound:' .. exchange, queue)
  local table_of_kombu = PREFIX .. '_kombu.binding.' .. exchange
  for _, member in ipairs(call('SMEMBERS', table_of_kombu)) do
    if string.sub(member, -#queue) == queue then
      call('SREM', table_of_kombu, member)
      call('SREM', PREFIX .. '_kombu.binding_permanent.' .. exchange, member)
    end
  end
end

local put

-- A message for a fanout exchange, named "\0exchange\0channel" in place of a queue: a copy to each queue that is
-- bound to it, unless its node is dead, and one to Celery's workers, who listen on the channel.
local function spread(target, lane, how, when, id, envelope, now, flags)
  local exchange, channel = string.match(target, '^%z([^%z]*)%z(.*)$')
  local flat = call('HGETALL', PREFIX .. 'celeriac:bound:' .. exchange)
  for i = 1, #flat, 2 do
    if flat[i + 1] == '' or call('ZSCORE', PREFIX .. 'celeriac:beats', flat[i + 1]) then
      put(flat[i], lane, how, when, id, envelope, now, flags)
      wake(flat[i])
    else
      untie(exchange, flat[i])
    end
  end
  announce(channel, envelope)
end

-- how: 'n' now, 's' in so many seconds, 'd' at an epoch second. flags of a delayed one. Whether the queue has a
-- ready message more.
function put(queue, lane, how, when, id, envelope, now, flags)
  if string.byte(queue) == 0 then
    spread(queue, lane, how, when, id, envelope, now, flags)
    return false
  end
  if how == 'n' then
    call('LPUSH', line(queue, lane), envelope)
    return true
  end
  local due = tonumber(when)
  if how == 's' then due = due + now end
  delay(queue, due, id, lane .. '|' .. (flags or '') .. '|' .. envelope)
  return false
end

-- Whether a stored result is final: a SUCCESS is never replaced.
local function succeeded(key, id)
  local head = call('GETRANGE', key, 0, 19)
  if head == '' then return false end
  if head == '{"status": "SUCCESS"' or string.sub(head, 1, 19) == '{"status":"SUCCESS"' then return true end
  if string.sub(head, 1, 9) == '{"status"' then return false end
  if call('EXISTS', RESULT_PREFIX .. 'celeriac:success:' .. id) == 1 then return true end
  if string.sub(head, 1, 1) ~= '{' then return false end
  local fine, meta = pcall(cjson.decode, call('GET', key))
  return fine and type(meta) == 'table' and meta.status == 'SUCCESS'
end

-- Store and announce a result; false if there is a SUCCESS already. ttl in ms or '', reply '' or a channel,
-- mark '1' if the payload is a SUCCESS that cannot be told from its first bytes.
local function store(id, payload, ttl, reply, mark)
  if tracked then call('DEL', RESULT_PREFIX .. 'celeriac:queued:' .. id) end
  local key = RESULT_PREFIX .. 'celery-task-meta-' .. id
  local words = { 'SET', key, payload }
  if ttl ~= '' then words[4], words[5] = 'PX', ttl end
  words[#words + 1] = 'NX' -- most results are a task's first: then there is nothing to look at
  if not call(unpack(words)) then
    if succeeded(key, id) then return false end
    words[#words] = nil
    call(unpack(words))
  end
  if mark == '1' then
    local name = RESULT_PREFIX .. 'celeriac:success:' .. id
    if ttl == '' then call('SET', name, '1') else call('SET', name, '1', 'PX', ttl) end
  end
  if TOMBSTONE > 0 and ttl ~= '' then
    call('SET', RESULT_PREFIX .. 'celeriac:tombstone:' .. id, '1', 'PX', string.format('%.0f', ttl + TOMBSTONE * 1000))
  end
  announce(key, payload)
  if reply ~= '' then
    if #payload > LARGEST_PUSH then payload = '' end
    announce(reply, #id .. ':' .. id .. payload)
  end
  return true
end

-- Run action with the results' database selected.
local function with_results(action, ...)
  if not RESULT_DB then return action(...) end
  call('SELECT', RESULT_DB)
  local outcome = { pcall(action, ...) }
  call('SELECT', DB)
  if not outcome[1] then error(outcome[2], 0) end
  return outcome[2]
end

local function message_of(problem)
  if type(problem) == 'table' then return problem.err or cjson.encode(problem) end
  return tostring(problem)
end
