-- Places under concurrency limits. To be included; the function is run where it is needed.
--   place:<place>            HASH limit, and token -> lease of each that holds a place
--   place:<place>:queues     SET queues with messages parked for it, in the bucket \1<place>
--   {q}:lease:<owner>:places HASH token -> place: what is to be freed when the lease ends

local function places()
  local M = {}

  local function key_of(place) return PREFIX .. 'celeriac:place:' .. place end

  -- How many places are free.
  function M.free(place)
    local name = key_of(place)
    return tonumber(call('HGET', name, 'limit') or 1) - math.max(call('HLEN', name) - 1, 0)
  end

  -- Let lease (its key, with its token) of the owner with this record have a place.
  function M.take(place, record, lease, token)
    call('HSET', key_of(place), token, lease)
    call('HSET', lease .. ':places', token, place)
    call('HSET', record, 'places', '1')
  end

  -- Tell the queues whose messages wait for it that a place may be free; forget a place that nobody wants.
  function M.offer(place, now)
    local name = key_of(place)
    local queues = call('SMEMBERS', name .. ':queues')
    if #queues > 0 then
      for i = 1, #queues do
        -- A microsecond early, so that rounding does not put it off.
        call('ZADD', own(queues[i], 'delayed'), seconds(now - 0.000001), '\0\1' .. place)
        wake(queues[i])
      end
    elseif call('HLEN', name) <= 1 then
      call('DEL', name)
    end
  end

  -- The lease ends: free the place that it holds, if any.
  function M.leave(lease, token, now)
    local place = call('HGET', lease .. ':places', token)
    if not place then return end
    call('HDEL', lease .. ':places', token)
    call('HDEL', key_of(place), token)
    M.offer(place, now)
  end

  return M
end
