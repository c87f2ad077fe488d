-- Settle outcomes and claim messages: one atomic step, repeatable.
--
-- KEYS  1 owner's record, 2 control
-- ARGV  1 request number, 2 limit, 3 owner, 4 number of queues to claim from, 5 number of queues, then the queues
--       (those to claim from first), then the number of outcomes, and for each:
--         verdict, queue (index), token, number of words that follow, then
--         n, n x (words of a part, chords.lua), unique key or '', task id, n, n x (words of a publication,
--           publications.lua), '1' to forget its checkpoint, n, n x (id, payload, ttl, reply, mark)
--                                                          only if the verdict ends with '+'
--         '1' id payload ttl reply mark  or  '0'                        the result
--         n, n x (queue, lane, how, when, id, envelope)                 publications
--         DELAY: how, when, id, envelope or ''                PARK: bucket (\1<place> to wait for a place), id
--         DEAD: JSON, envelope or ''                          REQUEUE: envelope or ''
--       then, if there are attempts for the history: '1' if each outcome has one, else '0', and for each outcome its
--       attempt or ''
-- Returns { now in us, version, next due in us or -1, '' or what is wrong with a queue, number of refused, refused ...,
--           then for each delivery: queue (index), token, lane, flags, envelope,
--           then, if there are any, { chord that is owed because of this exchange ... } }
-- Errors  FENCED: the owner was recovered by others.
--         FAILED: an outcome could not be stored; it is still leased, and nothing was claimed. A repeat of the
--         same request goes on where this one failed.

local owner, control = KEYS[1], KEYS[2]
local seq, limit, name = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local claims, total = tonumber(ARGV[4]), tonumber(ARGV[5])
local queues, leases = {}, {}
for i = 1, total do
  queues[i] = ARGV[5 + i]
  leases[i] = own(queues[i], 'lease:' .. name)
end
local at = 6 + total
local now, now_us = clock()
local names = { 'version', 'token', 'tracked' }
for i = 1, claims do names[i + 3] = 'p:' .. queues[i] end
local state = call('HMGET', control, unpack(names))
tracked = state[3]

local record = call('HMGET', owner, 'seq', 'fenced', 'answer', 'partial', 'places')
if not record[1] or record[2] then
  return redis.error_reply('FENCED lease owner ' .. name .. ' is not known any more: others took over its messages')
end

local refused, applied, woken, owed = {}, {}, {}, {}
local found, count, token, fields, broken = {}, 0, 0, {}, ''

local function lease(index, lane, flags, envelope)
  token = token + 1
  count = count + 1
  local name_of_token = string.format('%.0f', token)
  local list = fields[index]
  if not list then
    list = {}
    fields[index] = list
  end
  list[#list + 1] = name_of_token
  list[#list + 1] = lane .. '|' .. flags .. '|' .. envelope
  local n = #found
  found[n + 1], found[n + 2], found[n + 3], found[n + 4], found[n + 5] = index, token, lane, flags, envelope
end

-- What few exchanges need. Made when it is needed: each function costs every run of a script that makes it.
local made
local function rare()
  if made then return made end
  local M = {}
  -- include: uniques
  -- include: publications
  -- include: places
  -- include: chords
  local place_list, chord_store

  local function held_places()
    place_list = place_list or places()
    return place_list
  end

  function M.bury(queue, token, lane, meta, envelope)
    local index, letters = own(queue, 'dead'), own(queue, 'dead:letters')
    local key = token .. '@' .. queue
    call('HSET', letters, key, lane .. '|' .. meta .. '\n' .. envelope)
    call('ZADD', index, seconds(now), key)
    local old = call('ZRANGEBYSCORE', index, '-inf', seconds(now - DEAD_AGE), 'LIMIT', 0, 100)
    local surplus = call('ZCARD', index) - #old - DEAD_MAX
    if surplus > 0 then
      old = call('ZRANGE', index, 0, #old + math.min(surplus, 100) - 1)
    end
    for i = 1, #old do
      call('ZREM', index, old[i])
      call('HDEL', letters, old[i])
    end
  end

  local function next_token(rate)
    local state = call('HMGET', rate, 'taken', 'interval')
    return tonumber(state[1] or 0) + tonumber(state[2] or 0)
  end

  function M.park(queue, bucket, id, value)
    local place = string.byte(bucket) == 1 and string.sub(bucket, 2)
    local waited_for = PREFIX .. 'celeriac:' .. (place and 'place:' .. place or 'rate:' .. bucket)
    local member = keep(own(queue, 'parked'), id, value)
    call('LPUSH', own(queue, 'parked:' .. bucket), member)
    call('SADD', own(queue, 'buckets'), bucket)
    call('SADD', waited_for .. ':queues', queue)
    if not place then
      call('ZADD', own(queue, 'delayed'), seconds(next_token(waited_for)), '\0' .. bucket)
    else
      if held_places().free(place) > 0 then held_places().offer(place, now) end
    end
  end

  -- What few outcomes have. Returns where the others' words begin.
  function M.settle_more(first)
    local parts = tonumber(ARGV[first])
    first = first + 1
    if parts > 0 then
      chord_store = chord_store or chords()
      first = with_results(chord_store.record, first, parts, name, now, owed)
    end
    -- Before the publications: a task may be followed by one of the same key.
    local id = ARGV[first + 1]
    if ARGV[first] ~= '' then uniques().free(ARGV[first], id) end
    first = publish_all(first + 3, tonumber(ARGV[first + 2]), now, woken)
    if ARGV[first] == '1' then call('DEL', PREFIX .. 'celeriac:checkpoint:' .. id) end
    first = first + 2
    for _ = 1, tonumber(ARGV[first - 1]) do -- results of other tasks
      with_results(store, ARGV[first], ARGV[first + 1], ARGV[first + 2], ARGV[first + 3], ARGV[first + 4])
      first = first + 5
    end
    return first
  end

  -- Texts in one: each with its length before it.
  function M.joined(texts)
    local words = {}
    for i = 1, #texts do words[i] = #texts[i] .. ':' .. texts[i] end
    return table.concat(words)
  end

  function M.parted(text, texts)
    local at = 1
    while true do
      local length, start = string.match(text, '^(%d+):()', at)
      if not length then return end
      at = start + length
      texts[#texts + 1] = string.sub(text, start, at - 1)
    end
  end

  -- Hand out what is parked for a place. Returns when to look again, or nil: when somebody leaves his.
  local function grant_places(index, bucket)
    local queue, place = queues[index], string.sub(bucket, 2)
    local list = own(queue, 'parked:' .. bucket)
    while count < limit and held_places().free(place) > 0 do
      local member = call('RPOP', list)
      if not member then break end
      local value = call('HGET', own(queue, 'parked'), member)
      if value then
        call('HDEL', own(queue, 'parked'), member)
        local lane, flags, envelope = split(value)
        lease(index, lane, flags .. 'p', envelope)
        held_places().take(place, owner, leases[index], string.format('%.0f', token))
      end
    end
    if call('EXISTS', list) == 1 then
      if held_places().free(place) <= 0 then return nil end
      woken[queue] = true -- there is more than we were asked for
      return now
    end
    call('SREM', own(queue, 'buckets'), bucket)
    call('SREM', PREFIX .. 'celeriac:place:' .. place .. ':queues', queue)
    return nil
  end

  -- Hand out what is parked for a bucket, one message a token. Returns when the next token is there, or nil.
  function M.grant(index, bucket)
    if string.byte(bucket) == 1 then return grant_places(index, bucket) end
    local queue = queues[index]
    local rate, list = PREFIX .. 'celeriac:rate:' .. bucket, own(queue, 'parked:' .. bucket)
    while count < limit and next_token(rate) <= now do
      local member = call('RPOP', list)
      if not member then break end
      local value = call('HGET', own(queue, 'parked'), member)
      if value then -- else it was cancelled
        call('HDEL', own(queue, 'parked'), member)
        local lane, flags, envelope = split(value)
        lease(index, lane, flags .. 'a', envelope)
        call('HSET', rate, 'taken', seconds(now))
      end
    end
    if call('EXISTS', list) == 1 then return next_token(rate) end
    call('SREM', own(queue, 'buckets'), bucket)
    call('SREM', rate .. ':queues', queue)
    return nil
  end

  function M.leave(lease, token) held_places().leave(lease, token, now) end

  function M.free_of(member) uniques().free_of(member) end

  made = M
  return M
end

-- settling ------------------------------------------------------------------------------------------------

local function publish(first)
  local count = tonumber(ARGV[first])
  for i = first + 1, first + count * 6, 6 do
    if put(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], now) then
      woken[ARGV[i]] = true
    end
  end
  return first + 1 + count * 6
end

local function settle(verdict, index, token, first)
  local queue, lease = queues[index], leases[index]
  if #verdict > 1 then
    first = rare().settle_more(first)
    verdict = string.sub(verdict, 1, 1)
  end
  if ARGV[first] == '1' then
    with_results(store, ARGV[first + 1], ARGV[first + 2], ARGV[first + 3], ARGV[first + 4], ARGV[first + 5])
    first = first + 6
  else
    first = first + 1
  end
  first = publish(first)
  if verdict ~= '0' then
    local value = call('HGET', lease, token)
    local lane, flags, envelope = split(value)
    if verdict == '1' then -- GIVE_BACK
      front(queue, value)
      woken[queue] = true
    elseif verdict == '2' then -- DELAY
      if ARGV[first + 3] ~= '' then envelope, flags = ARGV[first + 3], '' end
      local due = tonumber(ARGV[first + 1])
      if ARGV[first] == 's' then due = due + now end
      delay(queue, due, ARGV[first + 2], lane .. '|' .. string.gsub(flags, '[aop]', '') .. '|' .. envelope)
    elseif verdict == '3' then -- PARK
      -- Who waits for a place keeps the token of its rate limit.
      local lost = string.byte(ARGV[first]) == 1 and '[op]' or '[aop]'
      rare().park(queue, ARGV[first], ARGV[first + 1], lane .. '|' .. string.gsub(flags, lost, '') .. '|' .. envelope)
    elseif verdict == '4' then -- DEAD
      if ARGV[first + 1] ~= '' then envelope = ARGV[first + 1] end
      rare().bury(queue, token, lane, ARGV[first], envelope)
    else -- REQUEUE
      if ARGV[first] ~= '' then envelope, flags = ARGV[first], '' end
      if string.find(flags, 'r', 1, true) then
        call('LPUSH', own(queue, 'returned'), lane .. '|r|' .. envelope)
      else
        call('LPUSH', line(queue, lane), envelope)
      end
      woken[queue] = true
    end
  end
  call('HDEL', lease, token)
  if record[5] then
    rare().leave(lease, token)
  end
end

local function settle_all()
  go_on_at_maxmemory()
  local done, failure = {}, nil
  if record[4] then
    if string.match(record[4], '^(%d+)|') == seq then
      rare().parted(call('HGET', owner, 'partial:owed') or '', owed)
    end
    call('HDEL', owner, 'partial', 'partial:owed')
  end
  if record[4] and string.match(record[4], '^(%d+)|') == seq then
    for token in string.gmatch(string.match(record[4], '|(.*)'), '%d+') do done[token] = true end
  end
  for _ = 1, tonumber(ARGV[at]) do
    local token, first = ARGV[at + 3], at + 5
    local index = tonumber(ARGV[at + 2])
    if done[token] then
      applied[#applied + 1] = token
    elseif call('HEXISTS', leases[index], token) == 0 then
      refused[#refused + 1] = token
    else
      local fine, problem = pcall(settle, ARGV[at + 1], index, token, first)
      if fine then
        applied[#applied + 1] = token
      else
        failure = 'message ' .. token .. ' of queue ' .. queues[index] .. ': ' .. message_of(problem)
      end
    end
    at = at + 4 + tonumber(ARGV[at + 4])
  end
  if failure then
    call('HSET', owner, 'partial', seq .. '|' .. table.concat(applied, ','), 'partial:owed', rare().joined(owed))
  end
  return failure
end

-- The attempts of the outcomes that were not refused.
local function note_attempts()
  -- include: history
  local first, count = at + 2, #ARGV - at - 1
  if ARGV[at + 1] == '1' and #refused == 0 then return note(first, count) end
  local refusals, attempts, outcome = {}, {}, 6 + total
  for i = 1, #refused do refusals[refused[i]] = true end
  for i = 1, count do
    if ARGV[first + i - 1] ~= '' and not refusals[ARGV[outcome + 3]] then
      attempts[#attempts + 1] = ARGV[first + i - 1]
    end
    outcome = outcome + 4 + tonumber(ARGV[outcome + 4])
  end
  for i = 1, #attempts do ARGV[first + i - 1] = attempts[i] end
  note(first, #attempts)
end

-- claiming ------------------------------------------------------------------------------------------------

-- Move what is due to ready; returns when the next one is due, or nil.
local function promote(index)
  local queue = queues[index]
  local delayed = own(queue, 'delayed')
  local head = call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if not head[1] then return nil end
  if limit == 0 or tonumber(head[2]) > now then return tonumber(head[2]) end
  local payloads = own(queue, 'delayed:payload')
  local due = call('ZRANGEBYSCORE', delayed, '-inf', seconds(now), 'LIMIT', 0, 100)
  for i = 1, #due do
    local member = due[i]
    if string.byte(member) == 0 then
      if count < limit then
        local again = rare().grant(index, string.sub(member, 2))
        if again then
          call('ZADD', delayed, seconds(again), member)
        else
          call('ZREM', delayed, member)
        end
      end
    else
      local value = call('HGET', payloads, member)
      if value then
        local lane, flags, envelope = split(value)
        if string.find(flags, 'r', 1, true) then
          call('LPUSH', own(queue, 'returned'), value)
        else
          call('LPUSH', line(queue, lane), envelope)
        end
        if string.find(flags, 'u', 1, true) then
          rare().free_of(member)
        end
        call('HDEL', payloads, member)
        woken[queue] = true
      end
      call('ZREM', delayed, member)
    end
  end
  head = call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  return head[2] and tonumber(head[2])
end

local function claim_returned(index)
  local values = call('RPOP', own(queues[index], 'returned'), limit - count)
  if not values then return end
  for i = 1, #values do
    local lane, flags, envelope = split(values[i])
    lease(index, lane, flags, envelope)
  end
end

local function claim_lane(index, lane)
  local envelopes = call('RPOP', line(queues[index], lane), limit - count)
  if not envelopes then return end
  for i = 1, #envelopes do lease(index, lane, '', envelopes[i]) end
end

local function mark_left(index)
  local queue = queues[index]
  if call('EXISTS', own(queue, 'wake')) == 1 then return end
  local lists = { own(queue, 'returned') }
  for lane = 0, #LANES - 1 do lists[lane + 2] = line(queue, lane) end
  if call('EXISTS', unpack(lists)) > 0 then wake(queue) end
end

-- A key of a foreign type must not stop the script: what it has taken so far would be lost.
local function guarded(index, action, argument)
  local fine, outcome = pcall(action, index, argument)
  if fine then return outcome end
  broken = queues[index] .. ': ' .. message_of(outcome)
  return nil
end

local function claim_all()
  local first_token = math.max(tonumber(state[2] or 0), now_us)
  token = first_token
  local next_due = nil
  local open, special = {}, {}
  for i = 1, claims do
    if not state[i + 3] then -- else it is paused
      open[#open + 1] = i
      -- One look where mostly neither is there.
      if call('EXISTS', own(queues[i], 'delayed'), own(queues[i], 'returned')) > 0 then
        special[#special + 1] = i
        local due = guarded(i, promote)
        if due and (not next_due or due < next_due) then next_due = due end
      end
    end
  end
  for i = 1, #special do
    if count < limit then guarded(special[i], claim_returned) end
  end
  for lane = 0, #LANES - 1 do
    for i = 1, #open do
      if count < limit then guarded(open[i], claim_lane, lane) end
    end
  end
  if token > first_token then call('HSET', control, 'token', string.format('%.0f', token)) end
  for index, list in pairs(fields) do
    for i = 1, #list, 2000 do -- Lua's stack bounds the words of one command
      call('HSET', leases[index], unpack(list, i, math.min(i + 1999, #list)))
    end
  end
  if count >= limit then
    for i = 1, #open do mark_left(open[i]) end
  end
  return next_due, tonumber(state[1] or 0)
end

-- answering -----------------------------------------------------------------------------------------------

local function answer(next_due, version)
  local reply = { now_us, version, next_due and next_due * 1000000 or -1, broken, #refused }
  local n = 5
  for i = 1, #refused do reply[n + i] = refused[i] end
  n = n + #refused
  for i = 1, #found do reply[n + i] = found[i] end
  if owed[1] then reply[#reply + 1] = owed end
  return reply
end

if record[1] == seq then
  -- The answer that was given to this request before; what it claimed is read from the lease.
  local first, second, third = string.match(record[3], '^([^;]*);([^;]*);?(.*)$')
  if third ~= '' then rare().parted(third, owed) end
  for old in string.gmatch(first, '%d+') do refused[#refused + 1] = old end
  for index, old in string.gmatch(second, '(%d+):(%d+)') do
    local value = call('HGET', leases[tonumber(index)], old)
    if value then
      local lane, flags, envelope = split(value)
      local n = #found
      found[n + 1], found[n + 2], found[n + 3] = tonumber(index), tonumber(old), lane
      found[n + 4], found[n + 5] = flags, envelope
    end
  end
  return answer(nil, tonumber(call('HGET', control, 'version') or 0))
end
local failure = settle_all()
if failure then return redis.error_reply('FAILED ' .. failure) end
if ARGV[at + 1] then note_attempts() end
local next_due, version = claim_all()
for queue in pairs(woken) do wake(queue) end
local claimed = {}
for i = 1, #found, 5 do claimed[#claimed + 1] = found[i] .. ':' .. string.format('%.0f', found[i + 1]) end
local given = table.concat(refused, ',') .. ';' .. table.concat(claimed, ',')
if owed[1] then given = given .. ';' .. rare().joined(owed) end
call('HSET', owner, 'seq', seq, 'answer', given)
return answer(next_due, version)
