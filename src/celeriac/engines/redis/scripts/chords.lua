-- Chords, in Celery's keys and in the results' database. To be included; the function is run where it is needed.
--   celery-taskset-meta-<group>.j  ZSET payload -> index (LIST if Celery's workers keep no order)
--   .t, .s   STRING tasks that joined later, size
--   .d       SET <task id>:<index> of what has been counted
--   .c       STRING 'done', 'celeriac:<taker>' while a body of ours is owed, or the claim of a worker of Celery's
--   celeriac:chord:<group>  STRING the body;  celeriac:owed  ZSET group -> when it may be taken (again)

local function chords()
  local M = {}
  local OURS = 'celeriac:'
  local OWED = RESULT_PREFIX .. 'celeriac:owed'
  local OWED_KEPT = 30 * 86400 -- seconds that an owed body waits for somebody to send it
  local DONE_KEPT = 86400
  local marked = 0

  local function key_of(group, what) return RESULT_PREFIX .. 'celery-taskset-meta-' .. group .. what end

  local function keys_of(group)
    return {
      key_of(group, '.j'), key_of(group, '.t'), key_of(group, '.s'), key_of(group, '.d'),
      RESULT_PREFIX .. 'celeriac:chord:' .. group,
    }
  end

  local function keep_for(group, ttl)
    local keys = keys_of(group)
    if ttl ~= '' then ttl = math.max(tonumber(ttl), call('PTTL', keys[3])) end
    for i = 1, #keys do
      if ttl == '' then call('PERSIST', keys[i]) else call('PEXPIRE', keys[i], ttl) end
    end
    -- The list of results that Celery saves for a header with groups in it must last as long.
    local left = call('PTTL', key_of(group, ''))
    if ttl ~= '' and left > 0 and left < ttl then call('PEXPIRE', key_of(group, ''), ttl) end
  end

  -- A later mark sorts behind an earlier one of the same step.
  local function mark(group, due)
    call('ZADD', OWED, seconds(due + marked / 1000000), group)
    call('EXPIRE', OWED, OWED_KEPT)
    marked = marked + 1
  end

  local function is_list(key) return call('TYPE', key).ok == 'list' end

  -- If all parts are there and nobody has claimed the chord, owe its body; by may be '': taken by nobody.
  local function complete(group, by, now)
    local size = call('GET', key_of(group, '.s'))
    if not size then return false end
    local line = key_of(group, '.j')
    local count = is_list(line) and call('LLEN', line) or call('ZCARD', line)
    if count < size + (call('GET', key_of(group, '.t')) or 0) then return false end
    if not call('SET', key_of(group, '.c'), OURS .. by, 'NX', 'EX', OWED_KEPT) then return false end
    keep_for(group, OWED_KEPT * 1000)
    mark(group, by == '' and now or now + OWED_AGAIN)
    return true
  end

  local function claim_of(group)
    local claim = call('GET', key_of(group, '.c'))
    return claim, claim and string.sub(claim, 1, #OURS) == OURS
  end

  function M.open(group, size, body, ttl, now)
    local claim = claim_of(group)
    if claim or not call('SET', key_of(group, '.s'), size, 'NX') then return end
    call('SET', RESULT_PREFIX .. 'celeriac:chord:' .. group, body, 'NX')
    keep_for(group, ttl)
    complete(group, '', now)
  end

  -- Count the parts from ARGV[first] on, for each 7 words: group, task id, index or '+inf', payload, ttl in ms or '',
  -- body or '', how many tasks joined. The groups that are owed now go into owed. Returns what follows in ARGV.
  function M.record(first, count, by, now, owed)
    for i = first, first + count * 7 - 1, 7 do
      local group, index, payload = ARGV[i], ARGV[i + 2], ARGV[i + 3]
      local claim, ours = claim_of(group)
      if claim ~= 'done' and not ours then
        if call('SADD', key_of(group, '.d'), ARGV[i + 1] .. ':' .. index) == 1 then
          local line = key_of(group, '.j')
          if is_list(line) then call('RPUSH', line, payload) else call('ZADD', line, index, payload) end
          if ARGV[i + 6] ~= '0' then call('INCRBY', key_of(group, '.t'), ARGV[i + 6]) end
        end
        if ARGV[i + 5] ~= '' then call('SET', RESULT_PREFIX .. 'celeriac:chord:' .. group, ARGV[i + 5], 'NX') end
        keep_for(group, ARGV[i + 4])
        if complete(group, by, now) then owed[#owed + 1] = group end
      end
    end
    return first + count * 7
  end

  -- Groups that may be taken; those of which nothing is left are struck out.
  function M.owed(now)
    local found, groups = {}, call('ZRANGEBYSCORE', OWED, '-inf', seconds(now), 'LIMIT', 0, 100)
    for i = 1, #groups do
      local _, ours = claim_of(groups[i])
      if ours then found[#found + 1] = groups[i] else call('ZREM', OWED, groups[i]) end
    end
    return found
  end

  -- Returns { body or false, payload, ... }, or nil.
  function M.take(group, by, now)
    local claim, ours = claim_of(group)
    if not ours then return nil end
    local due = call('ZSCORE', OWED, group)
    if due and tonumber(due) > now and claim ~= OURS .. by then return nil end
    call('SET', key_of(group, '.c'), OURS .. by, 'EX', OWED_KEPT)
    mark(group, now + OWED_AGAIN)
    local line = key_of(group, '.j')
    local taken = is_list(line) and call('LRANGE', line, 0, -1) or call('ZRANGE', line, 0, -1)
    table.insert(taken, 1, call('GET', RESULT_PREFIX .. 'celeriac:chord:' .. group))
    return taken
  end

  function M.holds(group, by) return call('GET', key_of(group, '.c')) == OURS .. by end

  function M.finish(group)
    call('DEL', unpack(keys_of(group)))
    call('SET', key_of(group, '.c'), 'done', 'EX', DONE_KEPT)
    call('ZREM', OWED, group)
  end

  return M
end
