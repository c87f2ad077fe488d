-- Unique keys: who holds which, and when they get free. To be included; the function is run where it is needed.
--   unique:<key>   HASH id, queue, until (ended, delayed, expiry);  holds:<id>  STRING key;  both expire with the hold
--   {q}:unique     ZSET id -> when its hold expires (ms): whom a purge of the queue has to look at

local function uniques()
  local M = {}

  local function key_of(key) return PREFIX .. 'celeriac:unique:' .. key end
  local function held_by(id) return PREFIX .. 'celeriac:holds:' .. id end

  -- Free key if id holds it, and not for its whole time.
  function M.free(key, id)
    local held = call('HMGET', key_of(key), 'id', 'queue', 'until')
    if held[1] ~= id or held[3] == 'expiry' then return end
    call('DEL', key_of(key), held_by(id))
    call('ZREM', own(held[2], 'unique'), id)
  end

  -- The same for whatever key is held by the message with this name in delayed:payload or parked (id or id#2 ...).
  function M.free_of(member)
    for _, id in ipairs({ member, (string.gsub(member, '#%d+$', '')) }) do
      local key = call('GET', held_by(id))
      if key then return M.free(key, id) end
    end
  end

  local function hold(key, id, queue, ttl, kind, now)
    -- HSET comes first: it is what a full server refuses.
    call('HSET', key_of(key), 'id', id, 'queue', queue, 'until', kind)
    call('PEXPIRE', key_of(key), ttl)
    call('SET', held_by(id), key, 'PX', ttl)
    if kind == 'expiry' then return end
    local index = own(queue, 'unique')
    call('ZADD', index, string.format('%.0f', now * 1000 + ttl), id)
    call('ZREMRANGEBYSCORE', index, '-inf', string.format('(%.0f', now * 1000))
    call('PEXPIREAT', index, call('ZREVRANGE', index, 0, 0, 'WITHSCORES')[2])
  end

  -- Let the publication of id have key. Returns nil, or who holds it ('' if nobody does and instead_of should).
  function M.take(key, id, queue, ttl, kind, instead_of, delayed, now)
    local held = call('HMGET', key_of(key), 'id', 'queue', 'until')
    local payloads = held[2] and own(held[2], 'delayed:payload')
    if instead_of == '' then
      if held[1] then return held[1] end
    elseif held[1] ~= instead_of or call('HEXISTS', payloads, instead_of) == 0 then
      return held[1] or ''
    end
    local holds = delayed or kind ~= 'delayed'
    if holds then hold(key, id, queue, ttl, kind, now) end
    if held[1] then
      call('HDEL', payloads, instead_of)
      call('ZREM', own(held[2], 'delayed'), instead_of)
      if not holds then M.free(key, instead_of) end
    end
    return nil
  end

  return M
end
